package access

import (
	"strconv"
	"strings"
)

// match reports whether a name fits a pattern, in which each '*' stands for any characters, '/' and none among them.
// It takes at most len(pattern) * len(name) steps.
func match(pattern, name string) bool {
	star, retry := -1, 0
	p, n := 0, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, retry = p, n
			p++
		case p < len(pattern) && pattern[p] == name[n]:
			p++
			n++
		case star >= 0:
			retry++
			p, n = star+1, retry
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// join lists words for a sentence.
func join[T ~string](words []T) string {
	const most = 12
	var b strings.Builder
	for i, w := range words {
		if i == most {
			b.WriteString(" and " + strconv.Itoa(len(words)-most) + " more")
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(w))
	}
	return b.String()
}

// clip quotes what somebody sent, within bounds.
func clip(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.Quote(s[:most]) + "..."
	}
	return strconv.Quote(s)
}
