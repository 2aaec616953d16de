package localapi

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"strconv"
	"time"
)

//go:embed page.css
var style string

// policy lets the page have its own style and nothing else, whatever gets into it.
var policy = func() string {
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

// refresh is how often the page loads itself anew, in seconds.
const refresh = "10"

func servePage(w http.ResponseWriter, d Document, now time.Time) {
	var m markup
	m.page(newView(d, now))
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(m.buf)))
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	_, _ = w.Write(m.buf) // the reader has gone
}

func (m *markup) page(v view) {
	m.tags(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><meta name="robots" content="noindex"><meta http-equiv="refresh" content="` + refresh + `">
<title>`).text(v.Title).tags(`</title><style>`)
	m.buf = append(m.buf, style...)
	m.tags(`</style></head><body>
<header><p class="brand">Dhow</p><h1>`).name(or(v.Node, "This node")).tags(`</h1>`)
	m.tags(`<p class="state `).text(v.State).tags(`"><span class="mark" aria-hidden="true"></span>`).text(v.Summary).tags("</p></header>\n<main>")
	if len(v.Warnings) > 0 {
		m.tags(`<section aria-labelledby="warnings"><h2 id="warnings">Warnings</h2>`)
		for _, w := range v.Warnings {
			m.tags(`<div class="warning"><p><strong>`).name(w.Message).tags(`</strong></p><p>`).text(w.Remedy)
			m.tags(`</p><p class="quiet"><code>`).text(w.Code).tags(`</code> for `).text(w.Age).tags("</p></div>\n")
		}
		m.tags(`</section>`)
	}
	m.tags(`<section aria-label="In short"><dl class="totals">`)
	for _, f := range v.Figures {
		m.tags(`<div><dt>`).text(f.Name).tags(`</dt><dd><span class="big">`).text(f.Value).tags(`</span><span class="quiet">`).text(f.Note).tags(`</span></dd></div>`)
	}
	m.tags("</dl></section>\n" + `<section aria-labelledby="models"><h2 id="models">Models</h2>`)
	if v.Hint != "" {
		m.tags(`<p class="empty">`).name(v.Hint).tags(`</p>`)
	}
	m.tags(`<div class="cards">`)
	for _, c := range v.Models {
		m.card(c)
	}
	m.tags("</div></section>\n" + `<div class="cards">`)
	for _, s := range v.Facts {
		m.section(s)
	}
	m.tags("</div></main>\n<footer><p>").text(v.Version).tags(` · as of <time>`).text(v.At)
	m.tags("</time>, loaded anew every " + refresh + ` seconds</p><p>The same for programs: <a href="` + Path + `">` + Path + "</a></p></footer></body></html>\n")
}

func (m *markup) card(c card) {
	m.tags(`<article class="card `).text(c.Tone).tags(`"><div class="head"><h3>`).name(c.Model).tags(` <span class="version">`).name(c.Version)
	m.tags(`</span></h3><p class="badges"><span class="badge `).text(c.Tone).tags(`">`).text(c.State).tags(`</span>`)
	if c.Role != "" {
		m.tags(`<span class="badge">`).text(c.Role).tags(`</span>`)
	}
	m.tags(`</p></div>`)
	if c.Problem != "" {
		m.tags(`<p class="problem">`).name(c.Problem).tags(`</p>`)
	}
	if c.Busy {
		percent := strconv.Itoa(c.Percent)
		m.tags(`<p class="progress"><progress max="100" aria-label="Downloaded" value="`).text(percent).tags(`"></progress> `).text(percent).tags(` %</p>`)
	}
	switch {
	case c.Chart != nil:
		m.chart(c.Chart)
	case len(c.Figures) > 0:
		m.tags(`<p class="quiet silent">No request in the last hour.</p>`)
	}
	if len(c.Figures) > 0 {
		m.tags(`<dl class="figures">`)
		m.figures(c.Figures)
		m.tags(`</dl>`)
	}
	if c.Details != "" {
		m.tags(`<p class="quiet details">`).name(c.Details).tags(`</p>`)
	}
	m.tags("</article>\n")
}

func (m *markup) chart(c *chart) {
	m.tags(`<figure><svg preserveAspectRatio="none" role="img" viewBox="0 0 `).text(strconv.Itoa(c.Width)).tags(` `).text(strconv.Itoa(c.Height))
	m.tags(`" aria-label="`).text(c.Label).tags(`">`)
	for _, b := range c.Bars {
		m.tags(`<rect class="error" x="`).text(b.X).tags(`" y="`).text(b.Y).tags(`" width="`).text(b.Width).tags(`" height="`).text(b.Height).tags(`"></rect>`)
	}
	for _, l := range c.Lines {
		m.tags(`<polyline class="line" points="`).text(l).tags(`"></polyline>`)
	}
	for _, d := range c.Dots {
		m.tags(`<circle class="dot" r="1.6" cx="`).text(d.X).tags(`" cy="`).text(d.Y).tags(`"></circle>`)
	}
	m.tags(`</svg><figcaption><span>1 h ago</span><span>`)
	if c.High != none {
		m.tags(`p95 by minute, up to `).text(c.High)
	}
	if len(c.Bars) > 0 {
		m.tags(` <span class="key">errors</span>`)
	}
	m.tags(`</span><span>now</span></figcaption></figure>`)
}

func (m *markup) section(s section) {
	m.tags(`<section class="card plain"><h2>`).text(s.Name).tags(`</h2>`)
	if len(s.Facts) > 0 {
		m.tags(`<dl class="facts">`)
		m.figures(s.Facts)
		m.tags(`</dl>`)
	}
	for _, l := range s.Lines {
		m.tags(`<p class="line-of-text">`).name(l).tags(`</p>`)
	}
	m.tags("</section>\n")
}

func (m *markup) figures(all []figure) {
	for _, f := range all {
		m.tags(`<div><dt>`).text(f.Name).tags(`</dt><dd>`).name(f.Value).tags(`</dd></div>`)
	}
}
