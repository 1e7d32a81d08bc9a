package conformance

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"go/ast"
	"go/doc"
	"go/doc/comment"
	"go/format"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.com/pop3/internal/pop3test"
)

// programs returns the examples by name, each as the documentation shows it: a program
// with its imports.
var programs = sync.OnceValues(func() (map[string]string, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, root+"example_test.go", nil, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	all := make(map[string]string)
	for _, e := range doc.Examples(file) {
		if e.Play == nil || e.Output == "" {
			return nil, fmt.Errorf("Example%s is not a program that prints something", e.Name)
		}
		var b strings.Builder
		if err := format.Node(&b, fset, e.Play); err != nil {
			return nil, err
		}
		all[e.Name] = b.String()
	}
	return all, nil
})

// anotherModule makes a module that requires this one, with programs in folders of their
// names. It returns a function that runs the go command there.
func anotherModule(t *testing.T, programs map[string]string) (dir string, run func(args ...string)) {
	gocmd, err := exec.LookPath("go")
	if err != nil {
		t.Skip(err)
	}
	gomod, err := os.ReadFile(root + "go.mod")
	if err != nil {
		t.Fatal(err)
	}
	module := strings.Fields(string(gomod))[1]
	top, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	write := func(name, text string) {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", fmt.Sprintf("module example.org/copied\ngo 1.25\nrequire %[1]s v0.0.0\nreplace %[1]s => %q\n", module, top))
	for name, text := range programs {
		write(filepath.Join("example"+name, "main.go"), text)
	}
	return dir, func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), gocmd, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "GOPROXY=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// snippets returns a program with the code of all doc comments, each block in a function
// whose parameters are the names that the comments leave to the reader.
func snippets() (string, error) {
	names, err := filepath.Glob(root + "*.go")
	if err != nil {
		return "", err
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			return "", err
		}
		files = append(files, file)
	}
	var b strings.Builder
	b.WriteString("package main\nimport (\"context\"; \"errors\"; \"io\"; \"log\"; \"example.com/pop3\")\nfunc main() {}\n")
	pkg, err := doc.NewFromFiles(fset, files, "example.com/pop3")
	if err != nil {
		return "", err
	}
	add := func(text string) {
		for _, block := range pkg.Parser().Parse(text).Content {
			if code, ok := block.(*comment.Code); ok {
				fmt.Fprintf(&b, "var _ = func(ctx context.Context, c *pop3.Client, numbers []int, w io.Writer,"+
					" save func(*pop3.Message) error, err error) error {\nif c != nil {\n%s}\nreturn nil\n}\n", code.Text)
			}
		}
	}
	add(pkg.Doc)
	for _, t := range pkg.Types {
		add(t.Doc)
		for _, f := range slices.Concat(t.Funcs, t.Methods) {
			add(f.Doc)
		}
	}
	return b.String(), nil
}

// TestExamplesStandAlone compiles each example in another module, as somebody does who copies
// it from the documentation, and the code in doc comments.
func TestExamplesStandAlone(t *testing.T) {
	t.Parallel()
	examples, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range examples {
		if strings.Contains(text, "/internal/") {
			t.Errorf("Example%s imports what others cannot", name)
		}
	}
	all := maps.Clone(examples)
	if all["DocComments"], err = snippets(); err != nil {
		t.Fatal(err)
	}
	_, run := anotherModule(t, all)
	run("vet", "./...")
}

// TestProxyExample runs the example of a proxy, whose own run never dials the proxy.
func TestProxyExample(t *testing.T) {
	t.Parallel()
	switch runtime.GOOS {
	case "windows", "darwin", "ios", "plan9":
		t.Skip("SSL_CERT_FILE names no root certificates here")
	}
	all, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	authority := pop3test.NewAuthority("root")
	s := pop3test.NewUnstartedServer()
	s.TLS = &tls.Config{Certificates: []tls.Certificate{
		authority.Issue(&x509.Certificate{DNSNames: []string{"pop.example.com"}}),
	}}
	s.AddUser("ada", "tides")
	s.StartTLS()
	defer s.Close()
	proxy, asked := startProxy(t, s.Addr)

	const addr = "proxy.example.com:3128"
	text := all["Options_proxy"]
	if strings.Count(text, addr) != 1 {
		t.Fatalf("the example does not name %s once", addr)
	}
	dir, run := anotherModule(t, map[string]string{"": strings.Replace(text, addr, proxy, 1)})
	program := filepath.Join(dir, "program.exe")
	run("build", "-o", program, "./example")
	roots := filepath.Join(dir, "roots.pem")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: authority.Cert.Raw}
	if err := os.WriteFile(roots, pem.EncodeToMemory(block), 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+roots, "SSL_CERT_DIR="+dir)
	out, err := cmd.CombinedOutput()
	switch exit := new(exec.ExitError); {
	case err != nil && !errors.As(err, &exit):
		t.Skip("this machine cannot run what it builds: ", err)
	case err != nil || string(out) != "<nil>\n":
		t.Errorf("%v\n%s", err, out)
	}
	select { // the program has ended: what it asked for is there
	case got := <-asked:
		if got != "pop.example.com:995" {
			t.Errorf("the proxy was asked for %q", got)
		}
	default:
		t.Error("the proxy was not asked")
	}
}

// startProxy starts an HTTP proxy that leads every CONNECT to the server at addr. It
// returns its address, and what is asked for.
func startProxy(t *testing.T, addr string) (proxy string, asked <-chan string) {
	hosts := make(chan string, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case hosts <- r.Host:
		default: // the first is enough
		}
		server, err := net.Dial("tcp", addr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer server.Close()
		client, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer client.Close()
		io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			io.Copy(server, buffered)
			server.Close()
		}()
		io.Copy(client, server)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), hosts
}
