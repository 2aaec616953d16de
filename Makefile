# Dhow. `make demo` runs the main job on this machine, `make test` passes the tests; both fetch what they need.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO      ?= go
CACHE   := $(CURDIR)/.cache
TOOLS   := $(CACHE)/bin
LDFLAGS := -s -w -X github.com/dhowfleet/dhow/protocol/version.Build=$(VERSION)
# The NVML binding wraps functions that NVIDIA deprecates; their warnings are not ours to mend.
export CGO_CFLAGS ?= -O2 -g -Wno-deprecated-declarations
BUILD   := CGO_ENABLED=1 $(GO) build -trimpath -ldflags '$(LDFLAGS)'

.PHONY: all binaries onnxruntime bundle kernels demo test testdata lint proto bench bench-wasm hostile neighbour faults conformance operators skew test-gpu tools clean

all: binaries

binaries:
	@mkdir -p bin
	$(BUILD) -o bin/ ./cmd/dhow-agent ./cmd/dhow-fleet ./cmd/dhow

# ONNX Runtime, pinned by hash; nothing is fetched when it is there.
onnxruntime:
	@install/onnxruntime/fetch

# The demo's bundle: model, labels, golden samples, and the two WASM steps built from wasm/examples.
bundle:
	@models/examples/fashion/build build/fashion

# WASM programs to measure metering with; what has no tool chain here is left out, and said.
kernels:
	@wasm/examples/kernels/build build/kernels

demo: binaries onnxruntime bundle
	@bin/dhow demo --bundle build/fashion --photos models/examples/fashion/photos $(if $(KEEP),--keep)

test: onnxruntime bundle
	$(GO) test -timeout 9m ./...

# Models and data of other makers, for the tests that are skipped without them: npm, Go modules, and Debian's packages.
testdata:
	@test/models/fetch
	@test/operators/fetch

# Longer proofs of the same kinds; `make test` runs a short form of each.
faults: binaries onnxruntime bundle
	DHOW_FAULTS=long $(GO) test -timeout 60m -count=1 ./test/e2e/... ./wasm/metering ./test/hostile

bench: binaries onnxruntime bundle bench-wasm
	$(GO) run ./test/bench $(BENCH)

# What bounding WASM modules costs, beside wazero alone, its own bound, Extism and WASI's streams.
bench-wasm: kernels
	cd test/bench/wasm && $(GO) run . $(BENCH_WASM)

# The table of docs/wasm-hostile.md.
hostile:
	$(GO) run ./test/hostile/table -o docs/wasm-hostile.md

# A model that serves while modules of the hostile corpus run beside it.
neighbour: onnxruntime
	$(GO) run ./test/hostile/neighbour $(NEIGHBOUR)

conformance:
	test/conformance/oci/run
	cd test/conformance/extism && $(GO) test ./...

# The table of docs/operators.md.
operators: onnxruntime
	@test/operators/fetch
	$(GO) run ./test/operators -o docs/operators.md

# The last release and this checkout work with each other; see test/skew/README.md.
skew:
	test/skew/run

# Needs an NVIDIA GPU with its driver; prints what it found where there is none.
test-gpu:
	DHOW_GPU=1 $(GO) test -count=1 -v ./agent/hardware/...

tools: $(TOOLS)/.stamp
$(TOOLS)/.stamp: test/tools/go.mod test/tools/go.sum test/tools/lint/go.mod test/tools/lint/go.sum
	@mkdir -p $(TOOLS)
	cd test/tools && GOBIN=$(TOOLS) $(GO) install tool
	cd test/tools/lint && GOBIN=$(TOOLS) $(GO) install tool
	@touch $@

lint: tools
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofmt these files: $$out"; exit 1; fi
	cd protocol/proto && PATH=$(TOOLS):$$PATH buf lint
	$(GO) vet ./...
	$(TOOLS)/golangci-lint run ./...

proto: tools
	cd protocol/proto && PATH=$(TOOLS):$$PATH buf generate

clean:
	rm -rf bin build
