package resource

import (
	"strings"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

// maxDiffLines bounds the lines of one side that are compared one with another; the work grows with their product.
const maxDiffLines = 500

// Diff returns what an apply changes in the declared form of a resource: lines that go begin with "-", lines that come
// with "+", others with a space. Either may be nil: nothing before, or nothing after. Equal forms return "".
func Diff(before, after *fleetv1.Resource) (string, error) {
	a, err := declaredLines(before)
	if err != nil {
		return "", err
	}
	b, err := declaredLines(after)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	changed := false
	write := func(mark byte, line string) {
		changed = changed || mark != ' '
		out.WriteByte(mark)
		out.WriteString(line)
		out.WriteByte('\n')
	}
	common := commonLengths(a, b)
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			write(' ', a[i])
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || common[i+1][j] >= common[i][j+1]):
			write('-', a[i])
			i++
		default:
			write('+', b[j])
			j++
		}
	}
	if !changed {
		return "", nil
	}
	return out.String(), nil
}

func declaredLines(r *fleetv1.Resource) ([]string, error) {
	if r == nil {
		return nil, nil
	}
	declared := Declared(r)
	declared.Metadata.ResourceVersion = 0
	data, err := YAML(declared)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	if len(lines) > maxDiffLines {
		lines = append(lines[:maxDiffLines:maxDiffLines], "...")
	}
	return lines, nil
}

// commonLengths[i][j] is the length of the longest common subsequence of a[i:] and b[j:].
func commonLengths(a, b []string) [][]int {
	out := make([][]int, len(a)+1)
	for i := range out {
		out[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				out[i][j] = out[i+1][j+1] + 1
			} else {
				out[i][j] = max(out[i+1][j], out[i][j+1])
			}
		}
	}
	return out
}
