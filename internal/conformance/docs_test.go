package conformance

import (
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
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

// TestReadme holds README to what it says: its programs are those of the
// examples, which run; what it names exists; and it tells poplib's users of
// everything that poplib has.
func TestReadme(t *testing.T) {
	read := func(name string) string {
		b, err := os.ReadFile(root + name)
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(b), "\r\n", "\n")
	}
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	readme := read("README.md")

	examples := squeeze(read("example_test.go"))
	programs := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(readme, -1)
	if len(programs) == 0 {
		t.Error("no program")
	}
	for _, m := range programs {
		program := squeeze(strings.ReplaceAll(m[1], `"pop.example.com", nil`, "addr, opts"))
		if !strings.Contains(examples, program) {
			t.Errorf("no example reads:\n%s", m[1])
		}
	}

	api := exported(t)
	for _, m := range regexp.MustCompile(`\b(?:pop3|Client|Options|Trace|Capabilities|a|c|\(\*Error\))\.([A-Z]\w*)`).FindAllStringSubmatch(readme, -1) {
		if !regexp.MustCompile(`\b` + m[1] + `\b`).MatchString(api) {
			t.Errorf("%s does not exist", m[0])
		}
	}
	for _, m := range regexp.MustCompile(`\]\(([^):#]+)\)`).FindAllStringSubmatch(readme, -1) {
		if _, err := os.Stat(filepath.FromSlash(root + m[1])); err != nil {
			t.Error(err)
		}
	}

	_, porting, _ := strings.Cut(readme, "## From poplib")
	for _, name := range strings.Fields(`POP3( POP3_SSL( getwelcome() set_debuglevel( user( pass_( apop( rpop( stat() list()
		list(which) uidl() uidl(which) retr( top( dele( noop() rset() quit() close() capa() utf8() stls( error_proto timeout=
		context= keyfile= certfile= poplib.connect poplib.putline POP3_PORT POP3_SSL_PORT`) {
		if !strings.Contains(porting, name) {
			t.Errorf("poplib's %s is missing", name)
		}
	}
}
