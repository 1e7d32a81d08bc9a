package conformance

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The package has floors, and no file uses a name of a file above it. What is
// left out here may use anything: commands.go, tls.go and pop3.go are the top.
var mayUse = map[string]func(o types.Object, file string) bool{
	"errors.go": func(types.Object, string) bool { return false },
	"conn.go": func(o types.Object, file string) bool {
		return file == "errors.go" || file == "pop3.go" && isDataOrTrace(o)
	},
}

// isDataOrTrace reports whether o is a type, a field or a method of Trace.
func isDataOrTrace(o types.Object) bool {
	switch o := o.(type) {
	case *types.TypeName:
		return true
	case *types.Var:
		return o.IsField()
	case *types.Func:
		recv := o.Signature().Recv()
		return recv != nil && strings.HasSuffix(recv.Type().String(), "pop3.Trace")
	}
	return false
}

// emptyImporter gives empty packages: what this package's files use of each other
// is resolved without the types of others, and without a compiler.
type emptyImporter struct{}

func (emptyImporter) Import(path string) (*types.Package, error) {
	p := types.NewPackage(path, path[strings.LastIndexByte(path, '/')+1:])
	p.MarkComplete()
	return p, nil
}

func TestFloors(t *testing.T) {
	fset := token.NewFileSet()
	files := parseDir(t, fset, root)
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: emptyImporter{}, Error: func(error) {}}
	pkg, _ := config.Check("pop3", fset, files, info)
	fileOf := func(pos token.Pos) string { return filepath.Base(fset.Position(pos).Filename) }

	uses := map[string]int{}
	for id, o := range info.Uses {
		from, to := fileOf(id.Pos()), ""
		if o.Pkg() != pkg || from == fileOf(o.Pos()) {
			continue
		}
		to = fileOf(o.Pos())
		uses[from+" "+to]++
		if may := mayUse[from]; may != nil && !may(o, to) {
			t.Errorf("%s uses %s of %s", fset.Position(id.Pos()), id.Name, to)
		}
	}
	for _, pair := range []string{"commands.go conn.go", "tls.go conn.go", "pop3.go conn.go", "conn.go errors.go", "conn.go pop3.go"} {
		if uses[pair] < 5 {
			t.Errorf("%s: %d uses were found: this test looks at nothing", pair, uses[pair])
		}
	}

	// A selector that has no type here must not hide a name from above.
	above := map[string]string{}
	for id, o := range info.Defs {
		if file := fileOf(id.Pos()); o != nil && !id.IsExported() && (file == "commands.go" || file == "tls.go" || file == "pop3.go" && !isDataOrTrace(o)) {
			if _, isFunc := o.(*types.Func); isFunc {
				above[id.Name] = file
			}
		}
	}
	for _, f := range files {
		if mayUse[fileOf(f.Pos())] == nil {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && info.Uses[sel.Sel] == nil && above[sel.Sel.Name] != "" {
				t.Errorf("%s may use %s of %s", fset.Position(sel.Pos()), sel.Sel.Name, above[sel.Sel.Name])
			}
			return true
		})
	}
}

// What a package of the module may import of it.
var imports = map[string][]string{
	".":               {"internal/sasl", "internal/stream", "internal/wire"},
	"internal/sasl":   {"internal/wire"},
	"internal/stream": nil,
	"internal/wire":   nil,
	// Tests of all packages use it, the library's own among them.
	"internal/pop3test": nil,
}

func TestImports(t *testing.T) {
	const module = "example.com/pop3/"
	for dir, may := range imports {
		for _, f := range parseDir(t, token.NewFileSet(), root+dir) {
			for _, spec := range f.Imports {
				path, _ := strconv.Unquote(spec.Path.Value)
				path, own := strings.CutPrefix(path+"/", module)
				if path = strings.TrimSuffix(path, "/"); own && !slices.Contains(may, path) {
					t.Errorf("%s imports %q", dir, path)
				}
			}
		}
	}
}

// parseDir parses the source of a package, without its tests.
func parseDir(t *testing.T, fset *token.FileSet, dir string) (files []*ast.File) {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: no source: %v", dir, err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}
