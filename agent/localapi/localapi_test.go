package localapi

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestStatusIsReadAsItWasWritten(t *testing.T) {
	want := Document{
		Version: "1", Protocol: 1, StartedAt: time.Unix(1, 0).UTC(),
		Uplink:   Uplink{Server: "m:1", Enrolled: true, Node: "n-1", Since: time.Unix(2, 0).UTC()},
		Models:   []Model{{Model: "fashion", Version: "1", State: "serving", Since: time.Unix(3, 0).UTC(), Bytes: 7, BytesDone: 7}},
		Warnings: []Warning{{Code: "disk-full", Message: "m", Remedy: "r", Since: time.Unix(4, 0).UTC()}},
		Outbox:   Outbox{Pending: 3},
	}
	want.Models = append(want.Models, full().Models...)
	want.Queue, want.Cache, want.AccessLog, want.Addresses, want.Hardware = full().Queue, full().Cache, full().AccessLog, full().Addresses, full().Hardware
	var fail error
	h := New(func(*http.Request) (Document, error) { return want, fail })
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, Path, nil))
	if strings.Contains(w.Body.String(), "certificateExpires") {
		t.Error("a certificate that is not there has an end")
	}
	got, err := Read(w.Body)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v %v", got, err)
	}
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, Path, nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Fatal(w.Code)
	}
	fail = errors.New("cannot read state.db")
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, Path, nil))
	if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "state.db") {
		t.Fatal(w.Code, w.Body)
	}
}
