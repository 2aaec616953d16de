package localfleet

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

// Photo is one test photo with the class that it shows.
type Photo struct {
	Name  string
	Label int
	Data  []byte
}

var photoName = regexp.MustCompile(`^[0-9]+-([0-9])\.(png|jpg)$`)

// Products are the fashion model's classes in their order.
var Products = []string{"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"}

// ReadPhotos reads the labelled photos of a folder.
func ReadPhotos(dir string) ([]Photo, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read the photos: %w", err)
	}
	var out []Photo
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
		out = append(out, Photo{Name: e.Name(), Label: label, Data: data})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no photos in %s", dir)
	}
	return out, nil
}

var client = &http.Client{Timeout: 10 * time.Second}

type inferTensor struct {
	Name       string         `json:"name"`
	Shape      []int64        `json:"shape,omitempty"`
	Datatype   string         `json:"datatype,omitempty"`
	Parameters map[string]any `json:"parameters,omitempty"`
}

// Answer is what a model said of a photo.
type Answer struct {
	Label   string
	Version string
}

// Infer sends one photo as one BYTES element in the Open Inference Protocol's binary form.
func Infer(ctx context.Context, url, model, id string, photo []byte) (Answer, error) {
	header, err := json.Marshal(map[string]any{
		"id":      id,
		"inputs":  []inferTensor{{Name: "photo", Shape: []int64{1}, Datatype: "BYTES", Parameters: map[string]any{"binary_data_size": len(photo) + 4}}},
		"outputs": []inferTensor{{Name: "label"}},
	})
	if err != nil {
		return Answer{}, err
	}
	body := binary.LittleEndian.AppendUint32(slices.Clone(header), uint32(len(photo)))
	body = append(body, photo...)
	answer, err := post(ctx, url, model, body, len(header))
	if err != nil {
		return Answer{}, err
	}
	if answer.ID != id {
		return Answer{}, fmt.Errorf("the answer is to request %q, not to %q", answer.ID, id)
	}
	var labels []string
	if len(answer.Outputs) != 1 || json.Unmarshal(answer.Outputs[0].Data, &labels) != nil || len(labels) == 0 {
		return Answer{}, fmt.Errorf("the answer holds no label: %v", answer.Outputs)
	}
	return Answer{Label: labels[0], Version: answer.Version}, nil
}

// PostInfer sends a request that is already written as JSON and returns which version answered.
func PostInfer(ctx context.Context, url, model string, body []byte) (Answer, error) {
	answer, err := post(ctx, url, model, body, 0)
	return Answer{Version: answer.Version}, err
}

type response struct {
	ID      string `json:"id"`
	Version string `json:"model_version"`
	Outputs []struct {
		Name string          `json:"name"`
		Data json.RawMessage `json:"data"`
	} `json:"outputs"`
}

// post sends one request; headerLength is that of the JSON part of a binary request, or 0.
func post(ctx context.Context, url, model string, body []byte, headerLength int) (response, error) {
	var answer response
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v2/models/"+model+"/infer", bytes.NewReader(body))
	if err != nil {
		return answer, err
	}
	if headerLength > 0 {
		req.Header.Set("Content-Type", "application/octet-stream")
		req.Header.Set("Inference-Header-Content-Length", strconv.Itoa(headerLength))
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return answer, err
	}
	if resp.StatusCode != http.StatusOK {
		return answer, fmt.Errorf("%s: %s", resp.Status, text)
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return answer, fmt.Errorf("the answer is no JSON: %w", err)
	}
	return answer, nil
}

// Ready asks whether a node serves a model.
func Ready(ctx context.Context, url, model string) error {
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
