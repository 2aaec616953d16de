package tensorproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

func number(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func text(b []byte, field protowire.Number, v string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func packed(values ...uint64) string {
	var b []byte
	for _, v := range values {
		b = protowire.AppendVarint(b, v)
	}
	return string(b)
}

func floats(values ...float32) string {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return string(b)
}

func TestEveryForm(t *testing.T) {
	minus := uint64(math.MaxUint64) // -1 as the format has it
	for _, c := range []struct {
		name  string
		proto []byte
		kind  string
		data  []byte
	}{
		{"raw", text(number(number(nil, 1, 2), 2, 2), 9, "ab"), "UINT8", []byte("ab")},
		{"packed dims", text(number(text(nil, 1, packed(1, 2)), 2, 2), 9, "ab"), "UINT8", []byte("ab")},
		{"packed floats", text(number(number(nil, 1, 2), 2, 1), 4, floats(1, -2)), "FP32", []byte(floats(1, -2))},
		{"single float", protowire.AppendFixed32(protowire.AppendTag(number(nil, 2, 1), 4, protowire.Fixed32Type), 7), "FP32", []byte{7, 0, 0, 0}},
		{"single double", protowire.AppendFixed64(protowire.AppendTag(number(nil, 2, 11), 10, protowire.Fixed64Type), 7), "FP64", []byte{7, 0, 0, 0, 0, 0, 0, 0}},
		{"negative int32", number(number(nil, 2, 6), 5, minus), "INT32", []byte{255, 255, 255, 255}},
		{"int8 in int32_data", text(number(number(nil, 1, 2), 2, 3), 5, packed(minus, 1)), "INT8", []byte{255, 1}},
		{"half in int32_data", number(number(nil, 2, 10), 5, 0x3c00), "FP16", []byte{0, 0x3c}},
		{"bool", number(number(nil, 2, 9), 5, 1), "BOOL", []byte{1}},
		{"int64", number(number(nil, 2, 7), 7, minus), "INT64", bytes.Repeat([]byte{255}, 8)},
		{"uint64", number(number(nil, 2, 13), 11, 1<<63), "UINT64", []byte{0, 0, 0, 0, 0, 0, 0, 128}},
		{"texts", text(text(number(number(nil, 1, 2), 2, 8), 6, "a"), 6, ""), "BYTES", []byte{1, 0, 0, 0, 'a', 0, 0, 0, 0}},
		{"no elements", number(number(nil, 1, 0), 2, 1), "FP32", nil},
		{"unknown fields", text(number(number(nil, 2, 9), 5, 0), 99, "x"), "BOOL", []byte{0}},
	} {
		v, err := Read(text(c.proto, 8, "x"))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if v.Name != "x" || v.Datatype != c.kind || !bytes.Equal(v.Raw, c.data) {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
}

func TestRefusals(t *testing.T) {
	for name, proto := range map[string][]byte{
		"cut":              {0x0a},
		"cut text":         {0x42, 5, 'a'},
		"too few":          text(number(number(nil, 1, 3), 2, 2), 9, "ab"),
		"too many":         text(number(number(nil, 1, 1), 2, 2), 9, "ab"),
		"half an element":  text(number(number(nil, 1, 1), 2, 1), 9, "abc"),
		"raw texts":        text(number(number(nil, 1, 1), 2, 8), 9, "abcd"),
		"negative":         number(number(nil, 1, math.MaxUint64), 2, 1),
		"huge":             number(number(number(nil, 1, 1<<40), 1, 1<<40), 2, 1),
		"huge by many":     number(text(nil, 1, packed(1<<20, 1<<20, 1<<20)), 2, 1),
		"rank":             number(text(nil, 1, packed(make([]uint64, 17)...)), 2, 1),
		"no type":          nil,
		"external":         number(number(nil, 2, 1), 14, 1),
		"segment":          text(number(nil, 2, 1), 3, ""),
		"type is a text":   text(nil, 2, "x"),
		"name is a number": number(number(nil, 2, 9), 8, 1),
		"name no UTF-8":    text(number(nil, 2, 9), 8, "\xff"),
		"floats as number": number(number(nil, 2, 1), 4, 1),
		"dims as fixed":    protowire.AppendFixed32(protowire.AppendTag(nil, 1, protowire.Fixed32Type), 1),
	} {
		if v, err := Read(proto); err == nil {
			t.Errorf("%s: %+v", name, v)
		}
	}
	if _, err := Read(number(nil, 2, 14)); !errors.Is(err, ErrType) {
		t.Errorf("complex numbers: %v", err)
	}
}

// FuzzRead: what is read holds together, and is never larger than what it was read from allows.
func FuzzRead(f *testing.F) {
	f.Add(text(text(number(number(nil, 1, 2), 2, 2), 9, "ab"), 8, "x"))
	f.Add(text(number(number(nil, 1, 2), 2, 3), 5, packed(1, 2)))
	f.Add(text(text(number(number(nil, 1, 2), 2, 8), 6, "a"), 6, ""))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Read(b)
		if err != nil {
			return
		}
		if err := v.Each(func(int64, []byte) {}); err != nil {
			t.Error(err)
		}
		if len(v.Raw) > 8*len(b) {
			t.Errorf("%d bytes out of %d", len(v.Raw), len(b))
		}
	})
}
