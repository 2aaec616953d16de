package tensor

import "fmt"

// InputError says what is wrong with the tensors of a request; it is the sender's to mend.
type InputError struct{ Message string }

func (e *InputError) Error() string { return e.Message }

// Inputf makes an *InputError.
func Inputf(format string, args ...any) error { return &InputError{fmt.Sprintf(format, args...)} }
