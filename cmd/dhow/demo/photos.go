package demo

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// photo is one test photo with the class that it shows.
type photo struct {
	name  string
	label int
	data  []byte
}

var photoName = regexp.MustCompile(`^[0-9]+-([0-9])\.(png|jpg)$`)

// products are the model's classes in their order.
var products = []string{"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"}

func readPhotos(dir string) ([]photo, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read the photos: %w", err)
	}
	var out []photo
	for _, e := range entries {
		m := photoName.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("cannot read a photo: %w", err)
		}
		label, _ := strconv.Atoi(m[1]) // one digit, by the pattern
		out = append(out, photo{name: e.Name(), label: label, data: data})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no photos in %s", dir)
	}
	return out, nil
}

// score is what a branch answered so far.
type score struct {
	sent, right int
	latencies   []time.Duration
}

func (s *score) accuracy() float64 { return float64(s.right) / float64(max(1, s.sent)) }

func (s *score) percentile(p float64) time.Duration {
	if len(s.latencies) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s.latencies))
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}

// classify sends n photos one after the other, as a till or a camera would.
func (d *demo) classify(ctx context.Context, b *branch, from, n int) error {
	before := b.score
	for i := range n {
		p := d.photos[(from+i)%len(d.photos)]
		begin := time.Now()
		answer, err := infer(ctx, b.url(), "fashion", fmt.Sprintf("%s-%d", b.site, b.score.sent), p.data)
		if err != nil {
			return fmt.Errorf("%s, photo %s: %w", b.site, p.name, err)
		}
		b.score.latencies = append(b.score.latencies, time.Since(begin))
		b.score.sent++
		if answer == products[p.label] {
			b.score.right++
		}
	}
	d.say(fmt.Sprintf("%-10s answered %d photos, accuracy %.3f, last %s", b.site, n,
		float64(b.score.right-before.right)/float64(n), b.score.latencies[len(b.score.latencies)-1].Round(10*time.Microsecond)))
	return nil
}

var client = &http.Client{Timeout: 10 * time.Second}

// infer sends one photo as one BYTES element in the protocol's binary form and returns the first label of the answer.
func infer(ctx context.Context, url, model, id string, data []byte) (string, error) {
	type tensor struct {
		Name       string         `json:"name"`
		Shape      []int64        `json:"shape"`
		Datatype   string         `json:"datatype"`
		Parameters map[string]any `json:"parameters,omitempty"`
		Data       []string       `json:"data,omitempty"`
	}
	header, err := json.Marshal(map[string]any{
		"id":      id,
		"inputs":  []tensor{{Name: "photo", Shape: []int64{1}, Datatype: "BYTES", Parameters: map[string]any{"binary_data_size": len(data) + 4}}},
		"outputs": []map[string]any{{"name": "label"}},
	})
	if err != nil {
		return "", err
	}
	body := binary.LittleEndian.AppendUint32(slices.Clone(header), uint32(len(data)))
	body = append(body, data...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v2/models/"+model+"/infer", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Inference-Header-Content-Length", strconv.Itoa(len(header)))
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", resp.Status, text)
	}
	var answer struct {
		ID      string   `json:"id"`
		Outputs []tensor `json:"outputs"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return "", fmt.Errorf("the answer is no JSON: %w", err)
	}
	if answer.ID != id {
		return "", fmt.Errorf("the answer is to request %q, not to %q", answer.ID, id)
	}
	if len(answer.Outputs) != 1 || len(answer.Outputs[0].Data) == 0 {
		return "", fmt.Errorf("the answer holds no label: %s", text)
	}
	return answer.Outputs[0].Data[0], nil
}

func ready(ctx context.Context, url, model string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v2/models/"+model+"/ready", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s says that %s is not ready: %s", url, model, resp.Status)
	}
	return nil
}
