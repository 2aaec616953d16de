package main

import (
	"encoding/binary"
	"strconv"
)

// wasmSection is a section of a module's file.
type wasmSection struct {
	Name  string `json:"name"`
	Bytes int    `json:"bytes"`
	Count int    `json:"count"` // of custom sections of one kind, how many there are; of others their entries
}

func (s *wasmSection) text() string {
	text := s.Name + " " + sizeOf(int64(s.Bytes))
	if s.Count > 0 {
		text += " (" + strconv.Itoa(s.Count) + ")"
	}
	return text
}

var sectionNames = [...]string{"custom", "types", "imports", "functions", "tables", "memories", "globals", "exports", "start", "elements", "code", "data", "data count"}

// sectionsOf walks over a module's sections for a report. It ends where the file does not go on as it should; why that is
// so is the rewriter's to say.
func sectionsOf(code []byte) []wasmSection {
	if len(code) < 8 || string(code[:4]) != "\x00asm" {
		return nil
	}
	var out []wasmSection
	custom := -1
	for rest := code[8:]; len(rest) > 1; {
		id := rest[0]
		n, width := binary.Uvarint(rest[1:min(len(rest), 6)])
		if width <= 0 || n > uint64(len(rest)-1-width) || int(id) >= len(sectionNames) {
			break
		}
		body := rest[1+width:][:n]
		rest = rest[1+width+int(n):]
		s := wasmSection{Name: sectionNames[id], Bytes: len(body)}
		switch entries, ok := binary.Uvarint(body[:min(len(body), 5)]); {
		case id == 0 && custom >= 0:
			out[custom].Bytes += len(body)
			out[custom].Count++
			continue
		case id == 0:
			custom, s.Count = len(out), 1
		case ok > 0 && entries <= uint64(len(code)) && id != 8 && id != 12:
			s.Count = int(entries)
		}
		if out = append(out, s); len(out) > len(sectionNames) {
			break // they repeat, which no valid module does
		}
	}
	return out
}
