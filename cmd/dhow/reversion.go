package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/dhowfleet/dhow/models/bundle"
)

// withVersion is a bundle's folder with another version in its bundle.yaml; all else is as it is on disk.
func withVersion(files fs.FS, version string) (fs.FS, error) {
	info, err := fs.Stat(files, bundle.SpecFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the bundle: %w", err)
	}
	if info.Size() > bundle.MaxSpecBytes {
		return nil, fmt.Errorf("%s is larger than %s", bundle.SpecFile, size(bundle.MaxSpecBytes))
	}
	data, err := fs.ReadFile(files, bundle.SpecFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the bundle: %w", err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil || len(doc.Content) == 0 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("cannot publish under another version: %s is no YAML mapping", bundle.SpecFile)
	}
	spec := doc.Content[0]
	at := -1
	for i := 0; i+1 < len(spec.Content); i += 2 {
		if spec.Content[i].Value == "version" {
			at = i + 1
		}
	}
	if at < 0 {
		return nil, fmt.Errorf("cannot publish under another version: %s has no version", bundle.SpecFile)
	}
	spec.Content[at].SetString(version)
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return nil, fmt.Errorf("cannot write %s: %w", bundle.SpecFile, err)
	}
	return &overlay{FS: files, data: out.Bytes()}, nil
}

// overlay is a file system in which bundle.yaml has other content.
type overlay struct {
	fs.FS
	data []byte
}

func (o *overlay) Open(name string) (fs.File, error) {
	if name == bundle.SpecFile {
		return &memoryFile{Reader: bytes.NewReader(o.data), info: o.info()}, nil
	}
	return o.FS.Open(name)
}

func (o *overlay) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(o.FS, name)
	if name == "." {
		for i, e := range entries {
			if e.Name() == bundle.SpecFile {
				entries[i] = fs.FileInfoToDirEntry(o.info())
			}
		}
	}
	return entries, err
}

func (o *overlay) info() fs.FileInfo { return memoryInfo(len(o.data)) }

type memoryFile struct {
	*bytes.Reader
	info fs.FileInfo
}

func (f *memoryFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *memoryFile) Close() error               { return nil }

// memoryInfo is the size of the one file that is not on disk.
type memoryInfo int

func (i memoryInfo) Name() string       { return bundle.SpecFile }
func (i memoryInfo) Size() int64        { return int64(i) }
func (i memoryInfo) Mode() fs.FileMode  { return 0o444 }
func (i memoryInfo) ModTime() time.Time { return time.Time{} }
func (i memoryInfo) IsDir() bool        { return false }
func (i memoryInfo) Sys() any           { return nil }
