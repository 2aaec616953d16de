package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/dhowfleet/dhow/models/graph"
	"github.com/dhowfleet/dhow/models/tensor"
)

// Load checks a bundle's folder: bundle.yaml, that every file it names is there, that the model files are whole and
// agree with it, that external data lies inside, and that golden samples fit. Nothing in it may be a symbolic link,
// since what a link points at would differ from machine to machine.
func Load(fsys fs.FS) (*Bundle, error) {
	data, err := readFile(fsys, SpecFile, MaxSpecBytes)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("this is no bundle: it has no %s", SpecFile)
		}
		return nil, err
	}
	spec, err := ParseSpec(data)
	if err != nil {
		return nil, err
	}
	b := &Bundle{Spec: spec}
	if b.Files, err = list(fsys); err != nil {
		return nil, err
	}
	if err := b.checkModels(fsys); err != nil {
		return nil, err
	}
	for _, s := range spec.modules() {
		if err := b.checkModule(fsys, s); err != nil {
			return nil, err
		}
	}
	if spec.Labels != "" {
		if _, err := b.named(spec.Labels, "labels", MaxLabelsBytes); err != nil {
			return nil, err
		}
		labels, err := readFile(fsys, spec.Labels, MaxLabelsBytes)
		if err != nil {
			return nil, err
		}
		if !utf8.Valid(labels) {
			return nil, fmt.Errorf("%s is no UTF-8 text", spec.Labels)
		}
	}
	if _, err := spec.Golden(fsys); err != nil {
		return nil, err
	}
	return b, nil
}

// list walks the folder and returns its files, sorted by path.
func list(fsys fs.FS) ([]File, error) {
	var out []File
	var known paths
	var total int64
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fmt.Errorf("cannot read %s: %v", p, err)
		case p == ".":
			return nil
		case d.Type()&fs.ModeSymlink != 0:
			return fmt.Errorf("%s is a symbolic link: put the file itself into the bundle", p)
		}
		if err := ValidPath(p); err != nil {
			return err
		}
		if d.IsDir() {
			return nil
		}
		info, err := d.Info()
		switch {
		case err != nil:
			return fmt.Errorf("cannot read %s: %v", p, err)
		case !info.Mode().IsRegular():
			return fmt.Errorf("%s is no regular file", p)
		case info.Size() > MaxFileBytes:
			return fmt.Errorf("%s has %s, a file of a bundle may have %s", p, FormatSize(info.Size()), FormatSize(MaxFileBytes))
		case len(out) == MaxFiles:
			return fmt.Errorf("the bundle has more than %d files", MaxFiles)
		}
		if err := known.add(p); err != nil {
			return err
		}
		if total += info.Size(); total > MaxTotalBytes {
			return fmt.Errorf("the bundle has more than %s", FormatSize(MaxTotalBytes))
		}
		out = append(out, File{Path: p, Size: info.Size()})
		return nil
	})
	slices.SortFunc(out, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return out, err
}

// named returns a file that bundle.yaml or a model file names; by says which.
func (b *Bundle) named(p, by string, most int64) (File, error) {
	at := slices.IndexFunc(b.Files, func(f File) bool { return f.Path == p })
	if at < 0 {
		return File{}, fmt.Errorf("%s names %s, which is not in the bundle", by, p)
	}
	if f := b.Files[at]; f.Size > most {
		return File{}, fmt.Errorf("%s has %s, at most %s are allowed", p, FormatSize(f.Size), FormatSize(most))
	}
	return b.Files[at], nil
}

func readFile(fsys fs.FS, p string, most int64) ([]byte, error) {
	f, err := fsys.Open(p)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", p, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", p, err)
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("%s is larger than the %s that are allowed", p, FormatSize(most))
	}
	return data, nil
}

// checkModels reads every variant and compares it with bundle.yaml and with the first one.
func (b *Bundle) checkModels(fsys fs.FS) error {
	if b.Spec.Stages != nil {
		return b.checkStages(fsys)
	}
	var first *graph.Graph
	for _, v := range b.Spec.Variants {
		g, err := b.readModel(fsys, v.File, "variant "+v.Name)
		if err != nil {
			return err
		}
		if need := g.MemoryEstimate(); need > uint64(b.Spec.Budgets.Memory) {
			return fmt.Errorf("%s needs about %s of memory, but budgets.memory is %s", v.File, FormatSize(int64(need)), FormatSize(b.Spec.Budgets.Memory))
		}
		if first == nil {
			first = g
		}
		if err := b.checkValues(v.File, g, first); err != nil {
			return err
		}
	}
	return nil
}

func readGraph(fsys fs.FS, file File) (*graph.Graph, error) {
	f, err := fsys.Open(file.Path)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", file.Path, err)
	}
	defer f.Close()
	at, ok := f.(io.ReaderAt)
	if !ok {
		data, err := readFile(fsys, file.Path, 2<<30)
		if err != nil {
			return nil, err
		}
		at = bytes.NewReader(data)
	}
	const pointer = "version https://git-lfs"
	head := make([]byte, len(pointer))
	if n, _ := at.ReadAt(head, 0); string(head[:n]) == pointer {
		return nil, fmt.Errorf("%s is a Git LFS pointer, not the model; fetch it with: git lfs pull", file.Path)
	}
	g, err := graph.ReadFrom(at, file.Size)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", file.Path, err)
	}
	return g, nil
}

// checkExternal wants the external data of a model inside the bundle and long enough.
func (b *Bundle) checkExternal(model string, g *graph.Graph) error {
	for _, e := range g.External {
		if err := ValidPath(e.Location); err != nil {
			return fmt.Errorf("%s keeps weights outside of the bundle: %w", model, err)
		}
		f, err := b.named(path.Join(path.Dir(model), e.Location), model, MaxFileBytes)
		if err != nil {
			return err
		}
		if uint64(f.Size) < e.End {
			return fmt.Errorf("%s has %d bytes, but %s has weights in it up to byte %d: it is cut off", f.Path, f.Size, model, e.End)
		}
	}
	return nil
}

// checkValues compares a model file's inputs and outputs with those of bundle.yaml where no WASM step stands between
// them, and with those of the first variant where one does: the step knows only one form.
func (b *Bundle) checkValues(file string, g, first *graph.Graph) error {
	wantIn, byIn := b.Spec.Inputs, SpecFile
	if b.Spec.Pre != nil {
		wantIn, byIn = tensors(first.Inputs), b.Spec.Variants[0].File
	}
	wantOut, byOut := b.Spec.Outputs, SpecFile
	if b.Spec.Post != nil {
		wantOut, byOut = tensors(first.Outputs), b.Spec.Variants[0].File
	}
	for _, w := range wantIn {
		if err := compare(file, "input", byIn, w, g.Inputs, false); err != nil {
			return err
		}
	}
	for _, v := range g.Inputs {
		if !slices.ContainsFunc(wantIn, func(w tensor.Spec) bool { return w.Name == v.Spec.Name }) {
			return fmt.Errorf("%s wants the input %q (%s), which %s does not have", file, v.Spec.Name, v.Kind, byIn)
		}
	}
	for _, w := range wantOut {
		if err := compare(file, "output", byOut, w, g.Outputs, true); err != nil {
			return err
		}
	}
	return nil
}

func tensors(values []graph.Value) []tensor.Spec {
	var out []tensor.Spec
	for _, v := range values {
		if v.Kind == graph.Tensor && v.Spec.Datatype.Valid() {
			s := v.Spec
			if !v.Ranked {
				s.Shape = nil
			}
			out = append(out, s)
		}
	}
	return out
}

// compare finds want among a file's values. A dimension that varies in the file goes with any; one that is fixed there
// must be the same, or vary in what is promised of an output. An unknown rank goes with any shape.
func compare(file, what, by string, want tensor.Spec, have []graph.Value, output bool) error {
	at := slices.IndexFunc(have, func(v graph.Value) bool { return v.Spec.Name == want.Name })
	if at < 0 {
		var names []string
		for _, v := range have {
			names = append(names, v.Spec.Name)
		}
		return fmt.Errorf("%s has no %s %q, which %s has; it has %s", file, what, want.Name, by, strings.Join(names, ", "))
	}
	v := have[at]
	switch {
	case v.Kind != graph.Tensor:
		return fmt.Errorf("%s %q of %s is a %s; only tensors can be served", what, want.Name, file, v.Kind)
	case !v.Spec.Datatype.Valid():
		return fmt.Errorf("%s %q of %s has an element type that the Open Inference Protocol does not have", what, want.Name, file)
	case v.Spec.Datatype != want.Datatype:
		return fmt.Errorf("%s %q of %s is %s, %s says %s", what, want.Name, file, v.Spec.Datatype, by, want.Datatype)
	case !v.Ranked || want.Shape == nil:
		return nil
	}
	fits := len(v.Spec.Shape) == len(want.Shape)
	for i := 0; fits && i < len(want.Shape); i++ {
		h, w := v.Spec.Shape[i], want.Shape[i]
		fits = h < 0 || h == w || output && w < 0
	}
	if !fits {
		return fmt.Errorf("%s %q of %s has shape %v, %s says %v (-1 varies)", what, want.Name, file, v.Spec.Shape, by, want.Shape)
	}
	return nil
}
