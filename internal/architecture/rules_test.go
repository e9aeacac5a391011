package architecture

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/grove-dbaas/grove"

// A file is one source file of the house.
type file struct {
	path   string // from the root of the repository: "internal/store/claim.go"
	source []byte
	fset   *token.FileSet
	ast    *ast.File
}

func (f *file) room() string { return path.Dir(f.path) }

func (f *file) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

func (f *file) imports() []string {
	var paths []string
	for _, spec := range f.ast.Imports {
		p, _ := strconv.Unquote(spec.Path.Value)
		paths = append(paths, p)
	}
	return paths
}

func (f *file) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.path, f.fset.Position(n.Pos()).Line)
}

// within tells whether room is dir or lies below it.
func within(room, dir string) bool { return room == dir || strings.HasPrefix(room, dir+"/") }

func withinAny(room string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool { return within(room, dir) })
}

func parse(name string, source []byte) (*file, error) {
	fset := token.NewFileSet()
	tree, err := parser.ParseFile(fset, name, source, parser.ParseComments|parser.SkipObjectResolution)
	return &file{path: name, source: source, fset: fset, ast: tree}, err
}

// house reads every Go file of the repository.
func house(t *testing.T) []*file {
	t.Helper()
	root := filepath.Join("..", "..")
	var files []*file
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && name != root):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		source, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		f, err := parse(filepath.ToSlash(rel), source)
		if err != nil {
			return err
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatalf("read the house: %v", err)
	}
	return files
}

// A rule looks at the house and says in sentences where it is broken.
type rule func(files []*file) []string

var rules = map[string]rule{
	"imports":       importsGoDown,
	"third parties": thirdPartiesHaveOwners,
	"linked":        programsStaySmall,
	"documented":    exportedNamesAreDocumented,
	"package docs":  packagesAreDocumented,
	"init":          nothingHappensAtInit,
	"variables":     packageVariablesNeverChange,
	"clock":         timeComesFromTheClock,
	"format":        filesAreFormatted,
	"package names": packageNamesSaySomething,
	"left to do":    nothingIsLeftToDo,
}

func TestHouse(t *testing.T) {
	files := house(t)
	if len(files) < 20 {
		t.Fatalf("found only %d files: is this the repository?", len(files))
	}
	for name, broken := range rules {
		t.Run(name, func(t *testing.T) {
			for _, sentence := range broken(files) {
				t.Error(sentence)
			}
		})
	}
}

// floor gives the floor of a room, the innermost entry that holds it.
func floor(room string) (level int, owner string) {
	level = -1
	for i, rooms := range floors {
		for _, r := range rooms {
			if within(room, r) && len(r) > len(owner) {
				level, owner = i, r
			}
		}
	}
	return level, owner
}

func importsGoDown(files []*file) []string {
	var broken []string
	for _, f := range files {
		if f.isTest() {
			continue
		}
		for _, p := range f.imports() {
			to, ours := strings.CutPrefix(p, module+"/")
			if ours && !mayImport(f.room(), to) {
				broken = append(broken, fmt.Sprintf("%s: %s must not import %s: a room imports rooms of lower floors only, not its neighbours",
					f.path, f.room(), to))
			}
		}
	}
	return append(broken, homeless(files)...)
}

// mayImport tells whether code of one room may import another.
func mayImport(from, to string) bool {
	if withinAny(to, testRooms) {
		return withinAny(from, testRooms) || from == "internal/e2e"
	}
	low, owner := floor(to)
	high, importer := floor(from)
	if withinAny(from, testRooms) || from == "internal/e2e" {
		return true
	}
	switch {
	case low != high:
		return low < high
	case importer != owner:
		return false
	case importer == "cmd":
		return program(from) == program(to)
	}
	return within(from, to) || within(to, from)
}

// program is the directory of the program that a room below cmd belongs to.
func program(room string) string {
	parts := strings.SplitN(room, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

// homeless finds rooms that stand on no floor.
func homeless(files []*file) []string {
	var broken []string
	for _, f := range files {
		level, _ := floor(f.room())
		if level < 0 && !withinAny(f.room(), testRooms) && !f.isTest() {
			broken = append(broken, fmt.Sprintf("%s: %s stands on no floor: add it to floors in internal/architecture", f.path, f.room()))
		}
	}
	return broken
}

func thirdPartiesHaveOwners(files []*file) []string {
	var broken []string
	for _, f := range files {
		if f.isTest() || withinAny(f.room(), testRooms) {
			continue
		}
		for _, p := range f.imports() {
			if !thirdParty(p) {
				continue
			}
			rooms := ownersOf(p)
			if within(f.room(), "internal/dbaas") || !(slices.Contains(rooms, "*") || withinAny(f.room(), rooms)) {
				broken = append(broken, fmt.Sprintf("%s: %s must not import %s: its owner is %s",
					f.path, f.room(), p, strings.Join(append(rooms, "(see owners in internal/architecture)"), ", ")))
			}
		}
	}
	return broken
}

func thirdParty(p string) bool {
	first, _, _ := strings.Cut(p, "/")
	return strings.Contains(first, ".") && !within(p, module)
}

func ownersOf(p string) []string {
	for prefix, rooms := range owners {
		if within(p, prefix) {
			return slices.Clone(rooms)
		}
	}
	return nil
}

func programsStaySmall(files []*file) []string {
	graph := map[string][]string{}
	for _, f := range files {
		if !f.isTest() {
			graph[f.room()] = append(graph[f.room()], f.imports()...)
		}
	}
	var broken []string
	for program, banned := range unreachable {
		seen := map[string]string{} // room → who imports it
		var walk func(room, from string)
		walk = func(room, from string) {
			if _, known := seen[room]; known {
				return
			}
			seen[room] = from
			for _, b := range banned {
				if within(room, b) {
					broken = append(broken, fmt.Sprintf("%s must not link %s, but %s imports it", program, room, from))
				}
			}
			for _, p := range graph[room] {
				walk(strings.TrimPrefix(p, module+"/"), room)
			}
		}
		for room := range graph {
			if within(room, program) {
				walk(room, program)
			}
		}
	}
	return broken
}

func exportedNamesAreDocumented(files []*file) []string {
	var broken []string
	missing := func(f *file, n ast.Node, name string) {
		broken = append(broken, fmt.Sprintf("%s: %s is exported and has no doc comment", f.at(n), name))
	}
	for _, f := range files {
		if f.isTest() || f.ast.Name.Name == "main" {
			continue
		}
		for _, decl := range f.ast.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) {
					missing(f, d, d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch s := spec.(type) {
					case *ast.TypeSpec:
						if s.Name.IsExported() && s.Doc == nil && d.Doc == nil {
							missing(f, s, s.Name.Name)
						}
					case *ast.ValueSpec:
						for _, name := range s.Names {
							if name.IsExported() && s.Doc == nil && s.Comment == nil && d.Doc == nil {
								missing(f, s, name.Name)
							}
						}
					}
				}
			}
		}
	}
	return broken
}

// exportedReceiver is true of functions and of methods whose type is exported.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	t := d.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return true
		}
	}
}

func packagesAreDocumented(files []*file) []string {
	documented := map[string]bool{}
	for _, f := range files {
		if !f.isTest() {
			documented[f.room()] = documented[f.room()] || f.ast.Doc != nil
		}
	}
	var broken []string
	for room, ok := range documented {
		if !ok {
			broken = append(broken, fmt.Sprintf("%s: the package has no package comment", room))
		}
	}
	return broken
}

func nothingHappensAtInit(files []*file) []string {
	var broken []string
	for _, f := range files {
		for _, decl := range f.ast.Decls {
			if d, ok := decl.(*ast.FuncDecl); ok && d.Recv == nil && d.Name.Name == "init" {
				broken = append(broken, f.at(d)+": no init(): what a package needs is made by whoever uses it")
			}
		}
	}
	return broken
}

// packageVariablesNeverChange allows tables, sentinels and embedded files; it refuses variables made for changing
// (locks, channels, atomics, without a value) and every assignment to one.
func packageVariablesNeverChange(files []*file) []string {
	var broken []string
	names := map[string]map[string]bool{} // room → package variables
	for _, f := range files {
		if f.isTest() || withinAny(f.room(), testRooms) {
			continue
		}
		for _, decl := range f.ast.Decls {
			d, ok := decl.(*ast.GenDecl)
			if !ok || d.Tok != token.VAR {
				continue
			}
			for _, spec := range d.Specs {
				s := spec.(*ast.ValueSpec)
				if why := madeForChanging(d, s); why != "" {
					broken = append(broken, fmt.Sprintf("%s: no mutable package variable: %s %s", f.at(s), s.Names[0].Name, why))
				}
				for _, name := range s.Names {
					if names[f.room()] == nil {
						names[f.room()] = map[string]bool{}
					}
					names[f.room()][name.Name] = name.Name != "_"
				}
			}
		}
	}
	for _, f := range files {
		for _, n := range assignments(f, names[f.room()]) {
			broken = append(broken, fmt.Sprintf("%s: no mutable package variable: %s is assigned to", f.at(n), n.Name))
		}
	}
	return broken
}

// madeForChanging says why a variable's declaration shows that it is meant to change; "" when it does not.
func madeForChanging(d *ast.GenDecl, s *ast.ValueSpec) string {
	embedded := strings.Contains(comments(d.Doc)+comments(s.Doc), "//go:embed ")
	if len(s.Values) == 0 && !embedded {
		return "has no value"
	}
	if s.Type != nil {
		if _, ok := s.Type.(*ast.ChanType); ok {
			return "is a channel"
		}
	}
	for _, v := range append(slices.Clone(s.Values), s.Type) {
		if v == nil {
			continue
		}
		if call, ok := v.(*ast.CallExpr); ok && onceOnly(call.Fun) {
			continue
		}
		switch root := firstIdent(v); root {
		case "sync", "atomic":
			return "comes from package " + root
		case "make":
			return "is made empty, to be filled"
		}
	}
	return ""
}

// onceOnly is true of sync.OnceValue and its like: what they give is worked out late, and never again.
func onceOnly(fun ast.Expr) bool {
	s, ok := fun.(*ast.SelectorExpr)
	return ok && firstIdent(s) == "sync" && strings.HasPrefix(s.Sel.Name, "OnceValue")
}

func comments(g *ast.CommentGroup) string {
	var b strings.Builder
	if g != nil {
		for _, c := range g.List {
			b.WriteString(c.Text + "\n")
		}
	}
	return b.String()
}

// firstIdent is the leftmost name of an expression: "sync" of &sync.Pool{}.
func firstIdent(e ast.Expr) string {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x.Name
		case *ast.SelectorExpr:
			e = x.X
		case *ast.UnaryExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.CompositeLit:
			if x.Type == nil {
				return ""
			}
			e = x.Type
		case *ast.CallExpr:
			e = x.Fun
		case *ast.IndexExpr:
			e = x.X
		default:
			return ""
		}
	}
}

// assignments finds where a file assigns to one of these names, to an element or to a field of it.
func assignments(f *file, names map[string]bool) []*ast.Ident {
	var found []*ast.Ident
	target := func(e ast.Expr) {
		for {
			switch x := e.(type) {
			case *ast.IndexExpr:
				e = x.X
				continue
			case *ast.SelectorExpr:
				e = x.X
				continue
			case *ast.Ident:
				if names[x.Name] {
					found = append(found, x)
				}
			}
			return
		}
	}
	for _, decl := range f.ast.Decls {
		d, ok := decl.(*ast.FuncDecl)
		if !ok || d.Body == nil {
			continue
		}
		local := locals(d)
		ast.Inspect(d, func(n ast.Node) bool {
			switch x := n.(type) {
			case *ast.AssignStmt:
				if x.Tok != token.DEFINE {
					for _, lhs := range x.Lhs {
						if !local[firstIdent(lhs)] {
							target(lhs)
						}
					}
				}
			case *ast.IncDecStmt:
				if !local[firstIdent(x.X)] {
					target(x.X)
				}
			}
			return true
		})
	}
	return found
}

// locals are the names that a function declares itself, anywhere: parameters, results, variables.
func locals(d *ast.FuncDecl) map[string]bool {
	names := map[string]bool{}
	ast.Inspect(d, func(n ast.Node) bool {
		switch x := n.(type) {
		case *ast.Field:
			for _, name := range x.Names {
				names[name.Name] = true
			}
		case *ast.AssignStmt:
			if x.Tok == token.DEFINE {
				for _, lhs := range x.Lhs {
					names[firstIdent(lhs)] = true
				}
			}
		case *ast.ValueSpec:
			for _, name := range x.Names {
				names[name.Name] = true
			}
		case *ast.RangeStmt:
			if x.Tok == token.DEFINE {
				names[firstIdent(x.Key)] = true
				if x.Value != nil {
					names[firstIdent(x.Value)] = true
				}
			}
		}
		return true
	})
	return names
}

func timeComesFromTheClock(files []*file) []string {
	var broken []string
	for _, f := range files {
		if f.isTest() || withinAny(f.room(), testRooms) || withinAny(f.room(), clockRooms) || within(f.room(), "internal/e2e") {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := s.X.(*ast.Ident)
			if ok && x.Name == "time" && slices.Contains([]string{"Now", "Sleep", "Since", "Until"}, s.Sel.Name) {
				broken = append(broken, fmt.Sprintf("%s: no time.%s outside %s: take a clock.Clock, wait for a condition",
					f.at(s), s.Sel.Name, strings.Join(clockRooms, ", ")))
			}
			return true
		})
	}
	return broken
}

func filesAreFormatted(files []*file) []string {
	var broken []string
	for _, f := range files {
		formatted, err := format.Source(f.source)
		if err != nil || !bytes.Equal(formatted, f.source) {
			broken = append(broken, f.path+": not formatted by gofmt")
		}
	}
	return broken
}

func packageNamesSaySomething(files []*file) []string {
	var broken []string
	for _, f := range files {
		if slices.Contains(vagueNames, f.ast.Name.Name) {
			broken = append(broken, fmt.Sprintf("%s: package %s: a package is named after what it provides", f.path, f.ast.Name.Name))
		}
	}
	return broken
}

func nothingIsLeftToDo(files []*file) []string {
	marks := []string{"TO" + "DO", "FIX" + "ME", "XX" + "X:"}
	var broken []string
	for _, f := range files {
		for _, mark := range marks {
			if bytes.Contains(f.source, []byte(mark)) {
				broken = append(broken, fmt.Sprintf("%s: %s: what is left to do stands in an issue, not in the code", f.path, mark))
			}
		}
	}
	return broken
}
