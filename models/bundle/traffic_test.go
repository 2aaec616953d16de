package bundle

import (
	"slices"
	"strings"
	"testing"
	"time"
)

const plainSpec = `apiVersion: dhow/v1
name: m
version: "1"
variants: [{name: a, file: model.onnx}]
inputs: [{name: x, datatype: FP32, shape: [-1, 4]}]
outputs: [{name: y, datatype: FP32, shape: [-1, 4]}]
`

func TestHowRequestsAreRun(t *testing.T) {
	s, err := ParseSpec([]byte(plainSpec + "batching: {max: 32, preferred: [8, 32], delay: 2ms}\ninstances: 2\nqueue: 500\ncache: true\n"))
	if err != nil {
		t.Fatal(err)
	}
	if b := s.Batching; b.Max != 32 || !slices.Equal(b.Preferred, []int{8, 32}) || b.Delay != 2*time.Millisecond || s.Instances != 2 || s.Queue != 500 || !s.Cache {
		t.Errorf("%+v, %+v", s.Batching, s)
	}
	if s, err := ParseSpec([]byte(plainSpec)); err != nil || s.Batching != nil || s.Instances != 0 || s.Queue != 0 || s.Cache {
		t.Errorf("%+v, %v", s, err)
	}
	for text, want := range map[string]string{
		"batching: {}":                        `"max" is missing in batching`,
		"batching: {max: 1}":                  `line 7: batching.max: "1" is no number from 2`,
		"batching: {max: 8, preferred: [16]}": "16 is more than batching.max",
		"batching: {max: 8, preferred: many}": "must be a list",
		"batching: {max: 8, delay: 5s}":       "outside of 0 to 1s",
		"batching: {max: 8, delay: soon}":     "soon",
		"batching: {max: 8, dealy: 1ms}":      `unknown key "dealy" in batching`,
		"instances: 0":                        `instances: "0" is no number from 1`,
		"queue: lots":                         `queue: "lots" is no number`,
		"cache: perhaps":                      "neither true nor false",
	} {
		if _, err := ParseSpec([]byte(plainSpec + text + "\n")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
