package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// width is that of the neighbour's rows.
const width = 256

// body is a request for a model of FP32 rows, in the JSON of the Open Inference Protocol.
func body(n int) []byte {
	return []byte(`{"inputs":[{"name":"x","datatype":"FP32","shape":[1,` + strconv.Itoa(n) + `],"data":[` +
		strings.TrimSuffix(strings.Repeat("1,", n), ",") + `]}]}`)
}

func post(ctx context.Context, client *http.Client, url string, body []byte) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, answer.Body)
	_ = answer.Body.Close()
	return answer.StatusCode, err
}

// ask sends requests at a steady rate and writes how long each took. A request that could not be sent in its turn,
// because the one before was still on its way, counts from its turn, or long waits would hide the short ones behind.
func ask(ctx context.Context, address string, rate int, window time.Duration, out io.Writer) error {
	if rate < 1 {
		return fmt.Errorf("a rate of %d requests a second is none", rate)
	}
	client := &http.Client{Timeout: time.Minute}
	request, url := body(width), address+"/v2/models/neighbour/infer"
	var times []time.Duration
	begin := time.Now()
	for turn := begin; turn.Sub(begin) < window && ctx.Err() == nil; turn = turn.Add(time.Second / time.Duration(rate)) {
		from := turn
		if early := time.Until(turn); early > 0 {
			time.Sleep(early)
			from = time.Now()
		}
		status, err := post(ctx, client, url, request)
		if err != nil {
			return err
		}
		if status != http.StatusOK {
			return fmt.Errorf("the neighbour answers with status %d", status)
		}
		times = append(times, time.Since(from))
	}
	slices.Sort(times)
	return json.NewEncoder(out).Encode(times)
}

// client runs ask in a process of its own, so that what is measured is the server's waiting and not the client's.
func client(ctx context.Context, address string, rate int, window time.Duration) ([]time.Duration, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, "-client", address, "-rate", strconv.Itoa(rate), "-seconds", strconv.FormatFloat(window.Seconds(), 'f', -1, 64))
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("the client failed: %w", err)
	}
	var times []time.Duration
	if err := json.Unmarshal(text, &times); err != nil {
		return nil, fmt.Errorf("the client prints no times: %w", err)
	}
	if len(times) < 10 {
		return nil, fmt.Errorf("only %d requests were answered", len(times))
	}
	return times, nil
}
