package arch

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	dataclassv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/dataclass/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// unclassified returns the fields of m, and of every message in it, that carry no data class.
func unclassified(m protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) []protoreflect.FullName {
	if seen[m.FullName()] || m.FullName() == "google.protobuf.Timestamp" {
		return nil
	}
	seen[m.FullName()] = true
	var out []protoreflect.FullName
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		class, _ := proto.GetExtension(f.Options(), dataclassv1.E_DataClass).(dataclassv1.DataClass)
		if class == dataclassv1.DataClass_DATA_CLASS_UNSPECIFIED {
			out = append(out, f.FullName())
		}
		if f.Message() != nil {
			out = append(out, unclassified(f.Message(), seen)...)
		}
	}
	return out
}

// TestEveryUpwardFieldHasADataClass: what a node sends is what may cross a border, and a field without a class could
// carry anything across it.
func TestEveryUpwardFieldHasADataClass(t *testing.T) {
	checked := 0
	services := syncv1.File_dhow_sync_v1_sync_proto.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			checked++
			for _, field := range unclassified(methods.Get(j).Input(), map[protoreflect.FullName]bool{}) {
				t.Errorf("%s goes upward without a data class: add [(dhow.dataclass.v1.data_class) = ...]", field)
			}
		}
	}
	if checked < 5 {
		t.Fatalf("only %d upward methods found", checked)
	}
}

// TestTheDataClassRuleCanFail shows that the rule sees a field without a class: answers go down and carry none.
func TestTheDataClassRuleCanFail(t *testing.T) {
	d := (&syncv1.EnrolResponse{}).ProtoReflect().Descriptor()
	if len(unclassified(d, map[protoreflect.FullName]bool{})) == 0 {
		t.Fatal("a message without data classes passed the rule")
	}
}
