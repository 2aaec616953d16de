package bundle

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// ValidName checks a bundle's name: a DNS label, since it is part of a repository's name, of URLs and of certificates'
// neighbours in logs.
func ValidName(s string) error {
	if s == "" || len(s) > 63 {
		return fmt.Errorf("name %q must have 1 to 63 characters", s)
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !letter && (c != '-' || i == 0 || i == len(s)-1) {
			return fmt.Errorf("name %q must be lower-case letters, digits and inner dashes", s)
		}
	}
	return nil
}

// ValidVersion checks a version: an OCI tag of at most 64 characters.
func ValidVersion(s string) error {
	if s == "" || len(s) > 64 {
		return fmt.Errorf("version %q must have 1 to 64 characters", s)
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		word := c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !word && (i == 0 || c != '.' && c != '-') {
			return fmt.Errorf("version %q must be letters, digits, '_', '.' and '-', and begin with a letter, digit or '_'", s)
		}
	}
	return nil
}

// validMetric checks the name of a counter or feature; it becomes part of metric names, which allow no more.
func validMetric(s string) error {
	if s == "" || len(s) > 64 {
		return fmt.Errorf("%q must have 1 to 64 characters", s)
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || i > 0 && (c == '_' || c >= '0' && c <= '9')) {
			return fmt.Errorf("%q must be lower-case letters, digits and '_', and begin with a letter", s)
		}
	}
	return nil
}

// validText checks a name that comes from a model file, where nearly everything occurs (':', '/', spaces).
func validText(s string) error {
	if s == "" || len(s) > 256 || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("%q must have 1 to 256 bytes of printable text", s)
	}
	return nil
}

// ValidPath checks the path of a file in a bundle: relative, with slashes, below the root, and harmless on every file
// system that a bundle may be copied to. No element begins with a dot.
func ValidPath(p string) error {
	if p == "" || p == "." || len(p) > 255 {
		return fmt.Errorf("path %q must have 1 to 255 bytes", p)
	}
	if !fs.ValidPath(p) {
		return fmt.Errorf("path %q must be relative to the bundle and stay inside it", p)
	}
	elements := strings.Split(p, "/")
	if len(elements) > 8 {
		return fmt.Errorf("path %q is nested deeper than 8 folders", p)
	}
	for _, e := range elements {
		if e[0] == '.' {
			return fmt.Errorf("path %q has an element that begins with a dot: hidden files do not belong in a bundle", p)
		}
		if last := e[len(e)-1]; last == '.' || last == ' ' || e[0] == ' ' {
			return fmt.Errorf("path %q has an element that begins or ends with a space or ends with a dot", p)
		}
	}
	if i := strings.IndexFunc(p, func(r rune) bool { return !unicode.IsPrint(r) || strings.ContainsRune("\\:*?\"<>|", r) }); i >= 0 {
		r, _ := utf8.DecodeRuneInString(p[i:])
		return fmt.Errorf("path %q has the character %q, which not every file system allows", p, r)
	}
	return nil
}

// paths collects files and refuses those that would collide, on a file system that ignores case too.
type paths struct {
	seen map[string]string // folded path of a file or folder -> as first written
	file map[string]bool   // whether the folded path is a file
}

func (c *paths) add(p string) error {
	if c.seen == nil {
		c.seen, c.file = map[string]string{}, map[string]bool{}
	}
	folded := strings.ToLower(p)
	if first, ok := c.seen[folded]; ok {
		if first == p && c.file[folded] {
			return fmt.Errorf("path %q occurs twice", p)
		}
		return fmt.Errorf("paths %q and %q collide", first, p)
	}
	c.seen[folded], c.file[folded] = p, true
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		folded := strings.ToLower(dir)
		first, ok := c.seen[folded]
		if ok && (first != dir || c.file[folded]) {
			return fmt.Errorf("paths %q and %q collide", first, p)
		}
		if ok {
			break
		}
		c.seen[folded] = dir
	}
	return nil
}

var units = []struct {
	suffix string
	bytes  int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}, {"", 1}}

// ParseSize reads a number of bytes such as "64MiB", "2GB" or "4096".
func ParseSize(s string) (int64, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 63)
		if err != nil || n > uint64(1<<62/u.bytes) {
			break
		}
		return int64(n) * u.bytes, nil
	}
	return 0, fmt.Errorf("%q is not a size; write a whole number with KiB, MiB or GiB, such as 64MiB", s)
}

// FormatSize is the inverse of ParseSize, rounded to one decimal where no unit fits.
func FormatSize(n int64) string {
	for _, u := range []struct {
		suffix string
		bytes  int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.bytes {
			if n%u.bytes == 0 {
				return strconv.FormatInt(n/u.bytes, 10) + u.suffix
			}
			return strconv.FormatFloat(float64(n)/float64(u.bytes), 'f', 1, 64) + u.suffix
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration; write a number with ms, s or m, such as 500ms", s)
	}
	return d, nil
}
