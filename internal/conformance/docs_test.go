package conformance

import (
	"context"
	"crypto/tls"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// root is the top of the source tree.
const root = "../../"

// TestAPI holds the exported API to testdata/api.txt, so that no change of it
// goes unseen.
func TestAPI(t *testing.T) {
	const name = root + "testdata/api.txt"
	api := exported(t)
	if os.Getenv("POP3_UPDATE_API") != "" {
		if err := os.WriteFile(name, []byte(api), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	committed, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	had := slices.Collect(strings.Lines(strings.ReplaceAll(string(committed), "\r\n", "\n")))
	has := slices.Collect(strings.Lines(api))
	for _, line := range had {
		if !slices.Contains(has, line) {
			t.Errorf("gone: %s", line)
		}
	}
	for _, line := range has {
		if !slices.Contains(had, line) {
			t.Errorf("new: %s", line)
		}
	}
	if t.Failed() {
		t.Log("If this is meant: POP3_UPDATE_API=1 go test -run TestAPI ./internal/conformance; git diff testdata/api.txt")
	}
}

// exported lists the package's exported API, a symbol a line.
func exported(t *testing.T) string {
	files, err := filepath.Glob(root + "*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no source: %v", err)
	}
	var lines []string
	fset := token.NewFileSet()
	add := func(prefix string, node any) {
		var b strings.Builder
		if err := format.Node(&b, fset, node); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, prefix+strings.Join(strings.Fields(b.String()), " ")+"\n")
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.FileExports(file)
		for _, decl := range file.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				if decl.Recv == nil || exportedType.MatchString(types.ExprString(decl.Recv.List[0].Type)) {
					decl.Body = nil
					add("", decl)
				}
			case *ast.GenDecl:
				for _, spec := range decl.Specs {
					switch spec := spec.(type) {
					case *ast.ValueSpec:
						if decl.Tok == token.VAR {
							spec.Values = nil // an error's text is no API
						}
						if len(spec.Values) == 0 && spec.Type == nil {
							spec.Type = ast.NewIdent("error")
						}
						add(decl.Tok.String()+" ", spec)
					case *ast.TypeSpec:
						fields, kind := members(spec.Type)
						if fields == nil {
							add("type ", spec)
							continue
						}
						lines = append(lines, "type "+spec.Name.Name+" "+kind+"\n")
						for _, f := range fields.List {
							for _, id := range f.Names {
								add("type "+spec.Name.Name+" "+kind+", "+id.Name+" ", f.Type)
							}
						}
					}
				}
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

var exportedType = regexp.MustCompile(`^\*?[A-Z]`)

// members is what a struct or an interface consists of, or nil.
func members(expr ast.Expr) (fields *ast.FieldList, kind string) {
	switch expr := expr.(type) {
	case *ast.StructType:
		return expr.Fields, "struct"
	case *ast.InterfaceType:
		return expr.Methods, "interface"
	}
	return nil, ""
}

// TestReadme holds README to the code: its programs are those of the examples, which run;
// what it names exists; and it has a counterpart for every call of poplib and of
// knadh/go-pop3.
func TestReadme(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(root + "README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := strings.ReplaceAll(string(b), "\r\n", "\n")
	examples, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	readme = readmeProgram.ReplaceAllStringFunc(readme, func(block string) string {
		code := readmeProgram.FindStringSubmatch(block)[1]
		for line := range strings.Lines(code) {
			if width := len(strings.ReplaceAll(line, "\t", "    ")); width > 100 {
				t.Errorf("%d columns: %s", width, line)
			}
		}
		if strings.HasPrefix(code, "// with github.com/knadh/go-pop3") {
			return ""
		}
		copied := func(example string) bool { return strings.Contains(squeeze(example), squeeze(code)) }
		if !slices.ContainsFunc(slices.Collect(maps.Values(examples)), copied) {
			t.Errorf("no example reads:\n%s", code)
		}
		return block
	})
	if strings.Contains(readme, "{{") {
		t.Error("something is still to be filled in")
	}
	checkNames(t, readme, exported(t))
	checkExamples(t, readme, examples)
	checkLinks(t, root+"README.md")
	checkLinks(t, root+".github/CONTRIBUTING.md")

	_, porting, _ := strings.Cut(readme, "## From poplib")
	for _, name := range strings.Fields(`POP3( POP3_SSL( getwelcome() set_debuglevel( user( pass_( apop( rpop( stat() list()
		list(which) uidl() uidl(which) retr( top( dele( noop() rset() quit() close() capa() utf8() stls( error_proto timeout=
		context= keyfile= certfile= poplib.connect poplib.putline POP3_PORT POP3_SSL_PORT
		New(Opt TLSEnabled TLSSkipVerify DialTimeout Dialer NewConn() Auth( User Pass Stat() List(0) List(id) Uidl(0) Uidl(id)
		RetrRaw(id) Retr(id) Top(id Dele(ids Noop() Rset() c.Quit() Cmd(`) {
		if !strings.Contains(porting, name) {
			t.Errorf("%s of poplib or knadh/go-pop3 is missing", name)
		}
	}
}

var readmeProgram = regexp.MustCompile("(?s)```go\n(.*?)```")

// checkNames checks that what a text names is in the exported API.
func checkNames(t *testing.T, text, api string) {
	names := regexp.MustCompile(`\b(?:pop3|Client|MessageInfo|Options|Trace|Capabilities|c|m|e)\.([A-Z]\w*)`)
	for _, m := range names.FindAllStringSubmatch(text, -1) {
		if !regexp.MustCompile(`\b` + m[1] + `\b`).MatchString(api) {
			t.Errorf("%s does not exist", m[0])
		}
	}
}

// checkExamples checks that the examples that a text names exist.
func checkExamples(t *testing.T, text string, examples map[string]string) {
	_, order, _ := strings.Cut(text, "in this order: ")
	order, _, _ = strings.Cut(order, "\n\n")
	var named []string
	for _, m := range regexp.MustCompile("`([\\w.]+)`").FindAllStringSubmatch(order, -1) {
		named = append(named, m[1])
	}
	for _, m := range regexp.MustCompile("example (?:of )?`([\\w.]+)`").FindAllStringSubmatch(text, -1) {
		named = append(named, m[1])
	}
	if len(named) < 10 {
		t.Errorf("found only the examples %q", named)
	}
	for _, name := range named {
		suffix := "_" + strings.ReplaceAll(name, ".", "_")
		if !slices.ContainsFunc(slices.Collect(maps.Keys(examples)), func(example string) bool {
			return strings.HasSuffix("_"+example, suffix)
		}) {
			t.Errorf("there is no example %s", name)
		}
	}
}

// checkLinks checks the links of a file to other files.
func checkLinks(t *testing.T, name string) {
	text, err := os.ReadFile(filepath.FromSlash(name))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`\]\(([^):#]+)\)`).FindAllStringSubmatch(string(text), -1) {
		if _, err := os.Stat(filepath.Join(filepath.Dir(name), filepath.FromSlash(m[1]))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestResumption shows that Clients which share a ClientSessionCache resume each other's
// TLS sessions, as README says.
func TestResumption(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		dial  func(context.Context, string, *pop3.Options) (*pop3.Client, error)
		start func(*pop3test.Server)
	}{
		{"DialTLS", pop3.DialTLS, (*pop3test.Server).StartTLS},
		{"DialStartTLS", pop3.DialStartTLS, (*pop3test.Server).Start},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(tt.name+" "+tls.VersionName(version), func(t *testing.T) {
				t.Parallel()
				s := pop3test.NewUnstartedServer()
				s.TLS.SetSessionTicketKeys([][32]byte{{1}}) // or each STLS has keys of its own
				tt.start(s)
				defer s.Close()
				config := s.ClientTLS()
				config.MaxVersion = version
				config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
				for _, resumed := range []bool{false, true} {
					c, err := tt.dial(t.Context(), s.Addr, &pop3.Options{TLSConfig: config})
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					if _, err := c.Capa(t.Context()); err != nil { // TLS 1.3 sends the ticket ahead of it
						t.Fatal(err)
					}
					if state, _ := c.TLSConnectionState(); state.DidResume != resumed {
						t.Errorf("DidResume is %v, want %v", state.DidResume, resumed)
					}
				}
			})
		}
	}
}
