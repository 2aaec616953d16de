package wasmtest

import (
	"bytes"

	"github.com/dhowfleet/dhow/wasm/abi"
)

// Where a Guest's parts lie in its memory.
const (
	AnswerAt  = 64   // the return area
	PayloadAt = 128  // what the return area points to
	RoomAt    = 4096 // what cabi_realloc returns
)

// Guest is a module that keeps the contract of wasm/abi: it takes any request and answers with a list of no tensors. Set
// a function's body to make it do something else.
type Guest struct {
	*Module
	Version, Realloc, Process, Post *Func
	// Area and Payload are what process returns. An Area that points nowhere is made to point to the payload.
	Area    abi.ReturnArea
	Payload []byte

	names map[string]string // of the contract's exports, where they are to be others
}

// NewGuest returns a guest with the imports, whose indices count from 0.
func NewGuest(imports ...Import) *Guest {
	g := &Guest{Module: New()}
	for _, i := range imports {
		g.Import(i.Module, i.Name, i.Sig)
	}
	g.Memory(1, NoMax)
	g.Export(abi.ExportMemory, KindMemory, 0)
	one := []Type{I32}
	g.Version = g.exported(abi.ExportVersion, Sig{nil, one}, I32Const(abi.Version))
	g.Realloc = g.exported(abi.ExportRealloc, Sig{Repeat(I32, 4), one}, I32Const(RoomAt))
	g.Process = g.exported(abi.ExportProcess, Sig{Repeat(I32, 2), one}, I32Const(AnswerAt))
	g.Post = g.exported(abi.ExportPostProcess, Sig{one, nil})
	return g
}

func (g *Guest) exported(name string, s Sig, body ...Code) *Func {
	f := g.Func(s, body...)
	g.Export(name, KindFunction, f.Index)
	return f
}

// Rename exports parts of the contract under other names.
func (g *Guest) Rename(names map[string]string) { g.names = names }

// Configure adds the contract's configure.
func (g *Guest) Configure(body ...Code) *Func {
	return g.exported(abi.ExportConfigure, Sig{Repeat(I32, 2), []Type{I32}}, body...)
}

// Initialize adds a reactor's _initialize.
func (g *Guest) Initialize(body ...Code) *Func {
	return g.exported(abi.ExportInitialize, Sig{}, body...)
}

// Answering sets what process does: body, and then the answer.
func (g *Guest) Answering(body ...Code) *Guest {
	g.Process.Body(Seq(body...), I32Const(AnswerAt))
	return g
}

// EmptyList is a tensor list of no tensors.
var EmptyList = []byte{0, 0, 0, 0, 8, 0, 0, 0}

// Bytes returns the module with its answer in a data segment.
func (g *Guest) Bytes() []byte { return Join(g.Sections()...) }

// Sections returns what Bytes joins.
func (g *Guest) Sections() []Section {
	area, payload := g.Area, g.Payload
	if area == (abi.ReturnArea{}) && payload == nil {
		payload = EmptyList
	}
	if area.Ptr == 0 {
		area.Ptr, area.Len = PayloadAt, uint32(len(payload))
	}
	var raw [abi.ReturnAreaSize]byte
	abi.PutReturnArea(raw[:], area)
	entries := g.entries[SectionData]
	g.Data(AnswerAt, raw[:])
	if len(payload) > 0 {
		g.Data(PayloadAt, payload)
	}
	exports := g.entries[SectionExport]
	g.entries[SectionExport] = renamed(exports, g.names)
	out := g.Module.Sections()
	g.entries[SectionData], g.entries[SectionExport] = entries, exports
	return out
}

func renamed(exports [][]byte, names map[string]string) [][]byte {
	out := make([][]byte, len(exports))
	for i, e := range exports {
		out[i] = e
		for from, to := range names {
			if rest, ok := bytes.CutPrefix(e, text(from)); ok {
				out[i] = join(text(to), rest)
				break
			}
		}
	}
	return out
}

// The imports that the contract offers.
var (
	EmitFeature = Import{abi.HostModule, abi.ImportEmitFeature, Sig{[]Type{I32, I32, F64}, nil}}
	EmitCount   = Import{abi.HostModule, abi.ImportEmitCount, Sig{[]Type{I32, I32, I64}, nil}}
	Log         = Import{abi.HostModule, abi.ImportLog, Sig{[]Type{I32, I32, I32}, nil}}
)

// WASI is a function of preview 1 whose parameters are given and which returns an error number.
func WASI(name string, params ...Type) Import {
	return Import{abi.WASIModule, name, Sig{params, []Type{I32}}}
}
