package resource

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

// YAML returns resources as the documents that Read reads, with their status. Fields stand in the order of the schema,
// so that the same resource is always the same text.
func YAML(resources ...*fleetv1.Resource) ([]byte, error) {
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	for _, r := range resources {
		if err := enc.Encode(document(r)); err != nil {
			return nil, fmt.Errorf("cannot print %s %s: %w", r.GetKind(), r.GetMetadata().GetName(), err)
		}
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("cannot print resources: %w", err)
	}
	return out.Bytes(), nil
}

// document is a resource with its body's spec and status at the top.
func document(r *fleetv1.Resource) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	pair(n, "kind", text(r.GetKind()))
	pair(n, "metadata", message(r.GetMetadata().ProtoReflect()))
	m := r.ProtoReflect()
	if field := m.WhichOneof(m.Descriptor().Oneofs().ByName("body")); field != nil {
		body := message(m.Get(field).Message())
		for i := 0; i+1 < len(body.Content); i += 2 {
			if k, v := body.Content[i], body.Content[i+1]; k.Value != "status" || len(v.Content) > 0 {
				n.Content = append(n.Content, k, v)
			}
		}
	}
	return n
}

func message(m protoreflect.Message) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if field := fields.Get(i); m.Has(field) {
			pair(n, field.JSONName(), fieldValue(field, m.Get(field)))
		}
	}
	if len(n.Content) == 0 {
		n.Style = yaml.FlowStyle
	}
	return n
}

func fieldValue(field protoreflect.FieldDescriptor, v protoreflect.Value) *yaml.Node {
	switch {
	case field.IsMap():
		n := &yaml.Node{Kind: yaml.MappingNode}
		entries := map[string]protoreflect.Value{}
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			entries[k.String()] = v
			return true
		})
		for _, k := range sortedKeys(entries) {
			pair(n, k, single(field.MapValue(), entries[k]))
		}
		return n
	case field.IsList():
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.List().Len() {
			n.Content = append(n.Content, single(field, v.List().Get(i)))
		}
		return n
	}
	return single(field, v)
}

func single(field protoreflect.FieldDescriptor, v protoreflect.Value) *yaml.Node {
	switch field.Kind() {
	case protoreflect.StringKind:
		return text(v.String())
	case protoreflect.BytesKind:
		return text(base64.StdEncoding.EncodeToString(v.Bytes()))
	case protoreflect.EnumKind:
		if value := field.Enum().Values().ByNumber(v.Enum()); value != nil {
			return text(string(value.Name()))
		}
		return plain("!!int", strconv.Itoa(int(v.Enum())))
	case protoreflect.BoolKind:
		return plain("!!bool", strconv.FormatBool(v.Bool()))
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return plain("!!float", strconv.FormatFloat(v.Float(), 'g', -1, 64))
	case protoreflect.MessageKind, protoreflect.GroupKind:
		if t, ok := v.Message().Interface().(*timestamppb.Timestamp); ok {
			return text(t.AsTime().UTC().Format(time.RFC3339Nano))
		}
		return message(v.Message())
	}
	return plain("!!int", v.String()) // the whole numbers
}

func pair(n *yaml.Node, key string, v *yaml.Node) { n.Content = append(n.Content, text(key), v) }

// text is a string, which the encoder puts in quotes where YAML would take it for something else.
func text(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

func plain(tag, s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: s} }

// JSON returns a message of the operators' protocol as that protocol's JSON form, indented, the same bytes every time.
func JSON(m proto.Message) ([]byte, error) {
	raw, err := protojson.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("cannot print %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	// protojson varies its spaces on purpose; Indent removes them.
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return nil, fmt.Errorf("cannot print %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}
