package main

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dhowfleet/dhow/models/jsontensor"
	"github.com/dhowfleet/dhow/models/tensor"
)

// picture is what a vision model of the usual size takes.
var picture = []int64{1, 3, 224, 224}

// kept is memory that was there before, as it is for a request like the one before it.
type kept []byte

func (k kept) Grow([]byte, int64) ([]byte, error) { return k, nil }

// decodeTable measures how fast the numbers of a picture are read from JSON into a tensor, in the ways in which clients
// write them.
func decodeTable(rounds int) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\nJSON of FP32%v\ttext\tdecoded in\tMB/s\tgoal\t\n", picture)
	for _, form := range []struct {
		name  string
		write func(int) string
	}{
		{"all digits of a float64", func(i int) string { return strconv.FormatFloat(math.Sin(float64(i)), 'g', -1, 64) }},
		{"the digits of a float32", func(i int) string { return strconv.FormatFloat(math.Sin(float64(i)), 'g', -1, 32) }},
		{"pixels from 0 to 255", func(i int) string { return strconv.Itoa(i * 7919 % 256) }},
	} {
		took, size, err := decode(rounds, form.write)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%.1f MB\t%.2f ms\t%.0f\t>= 300\t\n", form.name, float64(size)/1e6, float64(took)/1e6, float64(size)/1e6/took.Seconds())
	}
	return w.Flush()
}

// decode returns the median time for one picture, and how many bytes its text has.
func decode(rounds int, write func(int) string) (time.Duration, int, error) {
	n := 1
	for _, d := range picture {
		n *= int(d)
	}
	values := make([]string, n)
	for i := range values {
		values[i] = write(i)
	}
	text := []byte("[" + strings.Join(values, ",") + "]")
	memory := make(kept, 0, 4*n)
	times := make([]time.Duration, 20*rounds)
	for i := range times {
		start := time.Now()
		scanner := jsontensor.NewScanner(text)
		d := jsontensor.Decoder{Scanner: &scanner, Memory: memory, Name: "x", Datatype: tensor.FP32, Shape: picture}
		if err := d.Tensor(); err != nil {
			return 0, 0, err
		}
		times[i] = time.Since(start)
		if len(d.Data) != 4*n {
			return 0, 0, fmt.Errorf("%d bytes were decoded, not %d", len(d.Data), 4*n)
		}
	}
	return median(times), len(text), nil
}
