package localapi

import (
	"html"
	"strings"
)

// markup is HTML under construction. Nothing that is not written in this program becomes a tag: tags takes constants
// only, for a string that was made while it runs is not of its type, and all other text is escaped.
//
// The standard library's html/template would do it too, but it finds methods by their names while it runs, so that the
// linker has to keep every method of every type in the program: with it the idle agent has 3.8 MB more memory.
type markup struct{ buf []byte }

// fixed is text that was written by who wrote this package.
type fixed string

// tags adds markup as it stands.
func (m *markup) tags(s fixed) *markup {
	m.buf = append(m.buf, s...)
	return m
}

// text adds text, between tags or in an attribute's quotes.
func (m *markup) text(s string) *markup {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	m.buf = append(m.buf, html.EscapeString(s)...)
	return m
}

// name adds text that others chose, which may be written from right to left.
func (m *markup) name(s string) *markup {
	return m.tags("<bdi>").text(s).tags("</bdi>")
}
