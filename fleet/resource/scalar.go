package resource

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// scalar reads one value. Nothing is guessed: a text that YAML takes for a number is refused with how to write it,
// because 1.10 would otherwise become 1.1 somewhere.
func (r *reader) scalar(n *yaml.Node, path string, field protoreflect.FieldDescriptor) (protoreflect.Value, bool) {
	if n.Kind != yaml.ScalarNode {
		r.fail(n, path, "want %s, this is %s", wanted(field), describe(n))
		return protoreflect.Value{}, false
	}
	value, err := parseScalar(n, field)
	if err != nil {
		r.fail(n, path, "%s", err)
		return protoreflect.Value{}, false
	}
	return value, true
}

func parseScalar(n *yaml.Node, field protoreflect.FieldDescriptor) (v protoreflect.Value, err error) {
	mismatch := func() error { return fmt.Errorf("want %s, this is %s", wanted(field), describe(n)) }
	switch field.Kind() {
	case protoreflect.StringKind:
		if n.Tag == "!!int" && field.Name() == "traffic" {
			return v, fmt.Errorf("want a share, this is %s: write it in per cent, such as %s%%", describe(n), strings.TrimPrefix(clip(n.Value), "-"))
		}
		if n.Tag != "!!str" {
			return v, fmt.Errorf("want text, this is %s: write %q", describe(n), clip(n.Value))
		}
		return protoreflect.ValueOfString(n.Value), nil
	case protoreflect.BoolKind:
		b, err := strconv.ParseBool(n.Value)
		if n.Tag != "!!bool" || err != nil {
			return v, mismatch()
		}
		return protoreflect.ValueOfBool(b), nil
	case protoreflect.Uint32Kind:
		u, err := strconv.ParseUint(n.Value, 10, 32)
		if n.Tag != "!!int" || err != nil {
			return v, mismatch()
		}
		return protoreflect.ValueOfUint32(uint32(u)), nil
	case protoreflect.Uint64Kind:
		// JSON carries 64-bit numbers as text.
		u, err := strconv.ParseUint(n.Value, 10, 64)
		if (n.Tag != "!!int" && n.Tag != "!!str") || err != nil {
			return v, mismatch()
		}
		return protoreflect.ValueOfUint64(u), nil
	case protoreflect.DoubleKind:
		f, err := strconv.ParseFloat(n.Value, 64)
		if (n.Tag != "!!int" && n.Tag != "!!float") || err != nil {
			return v, mismatch()
		}
		return protoreflect.ValueOfFloat64(f), nil
	}
	return v, fmt.Errorf("this cannot be set in a file")
}

func wanted(field protoreflect.FieldDescriptor) string {
	switch field.Kind() {
	case protoreflect.BoolKind:
		return "true or false"
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		return "a whole number that is not negative"
	case protoreflect.DoubleKind:
		return "a number"
	}
	return "text"
}

// describe says what a node is, in an operator's words.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias, which is not taken here"
	}
	switch n.Tag {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "the truth value " + clip(n.Value)
	case "!!int", "!!float":
		return "the number " + clip(n.Value)
	case "!!timestamp":
		return "the date " + clip(n.Value)
	case "!!str":
		return fmt.Sprintf("the text %q", clip(n.Value))
	}
	return fmt.Sprintf("something tagged %s", clip(n.Tag))
}
