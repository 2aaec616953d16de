package wasmtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/dhowfleet/dhow/wasm/abi"
)

func instantiate(t *testing.T, code []byte) (api.Module, error) {
	t.Helper()
	r := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfigInterpreter().WithCoreFeatures(api.CoreFeaturesV2))
	t.Cleanup(func() { _ = r.Close(context.Background()) })
	return r.Instantiate(t.Context(), code)
}

func TestAGuestKeepsTheContract(t *testing.T) {
	g := NewGuest()
	g.Configure(I32Const(0))
	g.Initialize()
	m, err := instantiate(t, g.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	once := g.Bytes()
	if !bytes.Equal(once, g.Bytes()) {
		t.Error("encoding changes the module")
	}
	ret, err := m.ExportedFunction(abi.ExportProcess).Call(t.Context(), RoomAt, 8)
	if err != nil {
		t.Fatal(err)
	}
	raw, ok := m.Memory().Read(uint32(ret[0]), abi.ReturnAreaSize)
	if !ok {
		t.Fatal("no return area")
	}
	area, err := abi.ParseReturnArea(raw)
	if err != nil {
		t.Fatal(err)
	}
	payload, _ := m.Memory().Read(area.Ptr, area.Len)
	if list, err := abi.Decode(payload); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// TestInstructionsAreWhatTheirNamesSay: each expression, returned as an i64, gives the number.
func TestInstructionsAreWhatTheirNamesSay(t *testing.T) {
	wide := func(c ...Code) Code { return Seq(Seq(c...), I64ExtendI32U) }
	seven, two := I32Const(7), I32Const(2)
	for what, c := range map[string]struct {
		code Code
		want int64
	}{
		"constants":     {I64Const(-1 << 40), -1 << 40},
		"eqz":           {wide(I32Const(0), I32Eqz), 1},
		"eq":            {wide(seven, two, I32Eq), 0},
		"ne":            {wide(seven, two, I32Ne), 1},
		"less":          {wide(I32Const(-1), two, I32LtU), 0},
		"less of 64":    {wide(I64Const(1), I64Const(-1), I64LtU), 1},
		"eqz of 64":     {wide(I64Const(0), I64Eqz), 1},
		"add":           {wide(seven, two, I32Add), 9},
		"sub":           {wide(seven, two, I32Sub), 5},
		"mul":           {wide(seven, two, I32Mul), 14},
		"div":           {wide(I32Const(-7), two, I32DivS, I32Const(-3), I32Eq), 1},
		"div unsigned":  {wide(seven, two, I32DivU), 3},
		"and":           {wide(seven, two, I32And), 2},
		"or":            {wide(seven, I32Const(8), I32Or), 15},
		"xor":           {wide(seven, two, I32Xor), 5},
		"shl":           {wide(seven, two, I32Shl), 28},
		"shr":           {wide(seven, two, I32ShrU), 1},
		"of 64":         {Seq(I64Const(7), I64Const(2), I64Add, I64Const(3), I64Mul, I64Const(1), I64Sub, I64Const(2), I64DivU), 13},
		"bits of 64":    {Seq(I64Const(6), I64Const(3), I64And, I64Const(5), I64Xor, I64Const(4), I64Shl, I64Const(1), I64ShrU), 56},
		"floats":        {wide(F64Const(2), F64Const(8), F64Mul, F64Sqrt, F64Const(1), F64Add, F64Const(2.5), F64Div, I32TruncF64U), 2},
		"conversion":    {wide(I32Const(-4), F64ConvertI32, F64Const(-1), F64Mul, I32TruncF64U), 4},
		"wrap":          {wide(I64Const(1<<32+5), I32WrapI64), 5},
		"select":        {Seq(I64Const(1), I64Const(2), I32Const(0), Select), 2},
		"block":         {Block(Value(I64), I64Const(3), Br(0)), 3},
		"typed block":   {Seq(I64Const(4), Block(Indexed(1), I64Const(1), I64Add)), 5},
		"if":            {Seq(I64Const(1), LocalSet(0), two, If(Empty, I64Const(8), LocalSet(0)), LocalGet(0)), 8},
		"if else":       {Seq(I32Const(0), IfElse(Value(I64), I64Const(1), I64Const(2))), 2},
		"loop":          {Seq(Loop(Empty, LocalGet(0), I64Const(1), I64Add, LocalTee(0), I64Const(9), I64LtU, BrIf(0)), LocalGet(0)), 9},
		"br_table":      {Seq(Block(Empty, Block(Empty, Block(Empty, I32Const(1), BrTable(2, 0, 1)), I64Const(1), Return), I64Const(2), Return), I64Const(3)), 2},
		"forever":       {Block(Value(I64), Forever(I64Const(6), Br(1)), Unreachable), 6},
		"global":        {Seq(I64Const(11), GlobalSet(0), GlobalGet(0)), 11},
		"call":          {Seq(I64Const(20), Call(1)), 21},
		"call_indirect": {Seq(I64Const(30), I32Const(0), CallIndirect(1, 0)), 31},
		"memory":        {wide(two, I32Const(0x01020304), I32Store(2), I32Const(4), I32Load8(1)), 3},
		"memory of 64":  {Seq(two, I64Const(-5), I64Store(0), two, I64Load(0)), -5},
		"a byte":        {wide(two, I32Const(0x101), I32Store8(0), two, I32Load(0)), 1},
		"size and grow": {wide(I32Const(1), MemoryGrow, MemorySize, I32Add), 3},
		"fill and copy": {wide(two, seven, I32Const(4), MemoryFill, I32Const(100), two, I32Const(4), MemoryCopy, I32Const(100), I32Load(0)), 0x07070707},
		"init":          {wide(two, I32Const(0), I32Const(3), MemoryInit(0), DataDrop(0), two, I32Load(0)), 'a' | 'b'<<8 | 'c'<<16},
		"table":         {wide(NullFunc, I32Const(2), TableGrow(0), Drop, I32Const(1), RefFunc(1), TableSet(0), I32Const(1), TableGet(0), Raw(0xd1), I32Eqz, TableSize(0), I32Add), 4},
		"table bulk":    {wide(I32Const(1), NullFunc, I32Const(0), TableFill(0), I32Const(0), I32Const(0), I32Const(1), TableInit(1, 0), I32Const(0), I32Const(0), I32Const(1), TableCopy(0, 0), TableSize(0)), 1},
		"vectors":       {wide(I32Const(3), Vector(17), I32Const(4), Vector(17), Vector(174), Vector(27, 2)), 7},
	} {
		t.Run(what, func(t *testing.T) {
			m := New()
			f := m.Func(Sig{nil, []Type{I64}}, c.code).Locals(I64)
			m.Func(Sig{[]Type{I64}, []Type{I64}}, LocalGet(0), I64Const(1), I64Add)
			m.Memory(1, 2)
			m.Table(FuncRef, 1, NoMax)
			m.Elements(0, 1)
			m.PassiveElements(1)
			m.Global(I64, true, I64Const(0))
			m.PassiveData([]byte("abc"))
			m.Custom("note", []byte("x"))
			m.Export("f", KindFunction, f.Index)
			in, err := instantiate(t, m.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			got, err := in.ExportedFunction("f").Call(t.Context())
			if err != nil || int64(got[0]) != c.want {
				t.Errorf("%d, %v, want %d", got, err, c.want)
			}
		})
	}
}

func TestImportsStartAndSections(t *testing.T) {
	ran := false
	r := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfigInterpreter())
	defer r.Close(context.Background())
	if _, err := r.NewHostModuleBuilder("env").NewFunctionBuilder().WithFunc(func(v uint32) { ran = v == 5 }).Export("tell").Instantiate(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := New()
	tell := m.Import("env", "tell", Sig{[]Type{I32}, nil})
	m.Start(m.Func(Sig{}, I32Const(5), Call(tell)).Index)
	if _, err := r.Instantiate(t.Context(), m.Bytes()); err != nil || !ran {
		t.Errorf("the start function told nothing: %v", err)
	}
	// A section that is replaced is there as it was given, or not at all.
	m.Replace(SectionStart, nil)
	m.Replace(SectionData, []byte{0})
	sections := m.Sections()
	if last := sections[len(sections)-1]; last.ID != SectionData || len(last.Content) != 1 {
		t.Errorf("%v", sections)
	}
	for _, s := range sections {
		if s.ID == SectionStart {
			t.Error("the start section is still there")
		}
	}
	if b := Join(sections...); binary.LittleEndian.Uint32(b[4:]) != 1 || len(b) < 20 {
		t.Errorf("% x", b)
	}
	defer func() {
		if recover() == nil {
			t.Error("an import after a function was taken")
		}
	}()
	m.Import("env", "more", Sig{})
}
