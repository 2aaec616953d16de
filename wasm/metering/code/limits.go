package code

// Limits say what a module may be made of. A field that is zero has its default.
type Limits struct {
	Module    int // bytes
	Types     int
	Imports   int
	Functions int // imported ones included
	Globals   int
	Exports   int
	Elements  int // element segments
	Entries   int // functions in all element segments
	Data      int // data segments
	Params    int // of a function type
	Results   int // of a function or block type
	Values    int // parameters and results of all types: for each type a way in is compiled whenever the module is loaded

	Body      int // bytes of one function
	Locals    int // of one function, parameters included
	AllLocals int // of all functions, which a module declares in a few bytes and a reader holds one by one
	Height    int // operands at once in one function
	Nesting   int // blocks within blocks
	Work      int // of compiling one function, in microseconds by estimate
	PerMiB    int // of compiling all functions, for each MiB of the module begun, in microseconds by estimate
}

// DefaultLimits are far above real guests and far below what hurts.
func DefaultLimits() Limits {
	return Limits{
		Module:    32 << 20,
		Types:     10_000,
		Imports:   10_000,
		Functions: 100_000,
		Globals:   10_000,
		Exports:   10_000,
		Elements:  10_000,
		Entries:   1 << 20,
		Data:      100_000,
		Params:    256,
		Results:   256,
		Values:    20_000,

		Body:      512 << 10,
		Locals:    10_000,
		AllLocals: 2_000_000,
		Height:    10_000,
		Nesting:   5_000,
		Work:      1_660_000,
		PerMiB:    2_000_000,
	}
}

// WithDefaults fills the fields that are zero.
func (l Limits) WithDefaults() Limits {
	d := DefaultLimits()
	for _, f := range []struct{ have, instead *int }{
		{&l.Module, &d.Module}, {&l.Types, &d.Types}, {&l.Imports, &d.Imports}, {&l.Functions, &d.Functions},
		{&l.Globals, &d.Globals}, {&l.Exports, &d.Exports}, {&l.Elements, &d.Elements}, {&l.Entries, &d.Entries},
		{&l.Data, &d.Data}, {&l.Params, &d.Params}, {&l.Results, &d.Results}, {&l.Values, &d.Values}, {&l.AllLocals, &d.AllLocals},
		{&l.Body, &d.Body}, {&l.Locals, &d.Locals}, {&l.Height, &d.Height}, {&l.Nesting, &d.Nesting},
		{&l.Work, &d.Work}, {&l.PerMiB, &d.PerMiB},
	} {
		if *f.have <= 0 {
			*f.have = *f.instead
		}
	}
	// The largest frame has to fit into a padded number.
	l.Locals, l.Height = min(l.Locals, 30_000), min(l.Height, 30_000)
	return l
}

// ForModule is how long compiling a module of so many bytes may take, in microseconds by estimate.
func (l Limits) ForModule(bytes int) int { return l.PerMiB * (1 + bytes>>20) }
