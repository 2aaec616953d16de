package metering

import "fmt"

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

	Body    int // bytes of one function
	Locals  int // of one function, parameters included
	Height  int // operands at once in one function
	Nesting int // blocks within blocks
	Control int // control operations of one function
	Weight  int // locals times control operations of one function

	AllLocals      int // of all functions, which a module declares in a few bytes and a reader holds one by one
	ControlSquares int // squares of control operations, of all functions
	Weights        int // locals times control operations, of all functions
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

		Body:    1 << 20,
		Locals:  10_000,
		Height:  10_000,
		Nesting: 5_000,
		Control: 8_000,
		Weight:  200_000,

		AllLocals:      2_000_000,
		ControlSquares: 400_000_000,
		Weights:        10_000_000,
	}
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	for _, f := range []struct{ have, instead *int }{
		{&l.Module, &d.Module}, {&l.Types, &d.Types}, {&l.Imports, &d.Imports}, {&l.Functions, &d.Functions},
		{&l.Globals, &d.Globals}, {&l.Exports, &d.Exports}, {&l.Elements, &d.Elements}, {&l.Entries, &d.Entries},
		{&l.Data, &d.Data}, {&l.Params, &d.Params}, {&l.Results, &d.Results}, {&l.Values, &d.Values}, {&l.AllLocals, &d.AllLocals},
		{&l.Body, &d.Body}, {&l.Locals, &d.Locals}, {&l.Height, &d.Height}, {&l.Nesting, &d.Nesting},
		{&l.Control, &d.Control}, {&l.Weight, &d.Weight},
		{&l.ControlSquares, &d.ControlSquares}, {&l.Weights, &d.Weights},
	} {
		if *f.have <= 0 {
			*f.have = *f.instead
		}
	}
	// The largest frame has to fit into a padded number.
	l.Locals, l.Height = min(l.Locals, 30_000), min(l.Height, 30_000)
	return l
}

// complexity holds the sums over all functions.
type complexity struct {
	squares, weights, locals int
}

// weigh refuses a function that would take too long to compile, alone or together with those before it.
func (w *rewriter) weigh(f *body) *Error {
	control, weight := f.control, f.locals*f.control
	w.info.MaxControl, w.info.MaxWeight = max(w.info.MaxControl, control), max(w.info.MaxWeight, weight)
	w.info.MaxLocals, w.info.MaxHeight = max(w.info.MaxLocals, f.locals), max(w.info.MaxHeight, f.highest)
	w.info.MaxNesting = max(w.info.MaxNesting, f.deepest)
	if control > w.limits.Control {
		return f.refuse(Complexity, fmt.Sprintf("it has %d control operations, at most %d are allowed", control, w.limits.Control))
	}
	if weight > w.limits.Weight {
		return f.refuse(Complexity, fmt.Sprintf("%d locals times %d control operations are more than %d", f.locals, control, w.limits.Weight))
	}
	if w.sums.locals += f.locals; w.sums.locals > w.limits.AllLocals {
		return &Error{Reason: Complexity, Function: -1, Offset: -1, Text: fmt.Sprintf("its functions together have more than %d locals", w.limits.AllLocals)}
	}
	w.sums.squares += control * control
	w.sums.weights += weight
	if w.sums.squares > w.limits.ControlSquares || w.sums.weights > w.limits.Weights {
		return &Error{Reason: Complexity, Function: -1, Offset: -1, Text: "its functions together would take too long to compile"}
	}
	return nil
}
