package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dhowfleet/dhow/models/bundle"
)

type text string

func (v *text) Set(s string) error { *v = text(s); return nil }
func (v *text) String() string     { return string(*v) }

type duration time.Duration

func (v *duration) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is no duration such as 30s or 12h", s)
	}
	*v = duration(d)
	return nil
}
func (v *duration) String() string { return time.Duration(*v).String() }

type number int

func (v *number) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil {
		return fmt.Errorf("%q is no whole number", s)
	}
	*v = number(n)
	return nil
}
func (v *number) String() string { return strconv.Itoa(int(*v)) }

type size int64

func (v *size) Set(s string) error {
	n, err := bundle.ParseSize(s)
	if err != nil {
		return err
	}
	*v = size(n)
	return nil
}
func (v *size) String() string { return bundle.FormatSize(int64(*v)) }

type truth bool

func (v *truth) Set(s string) error {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return fmt.Errorf("%q is neither true nor false", s)
	}
	*v = truth(b)
	return nil
}
func (v *truth) String() string   { return strconv.FormatBool(bool(*v)) }
func (v *truth) IsBoolFlag() bool { return true }

// list is texts separated by commas; giving it again adds to it.
type list []string

func (v *list) Set(s string) error {
	for e := range strings.SplitSeq(s, ",") {
		if e = strings.TrimSpace(e); e != "" {
			*v = append(*v, e)
		}
	}
	return nil
}
func (v *list) String() string { return strings.Join(*v, ",") }
