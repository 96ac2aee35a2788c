# `make demo` and `make test` install missing packages first.

PROMPT ?= a red fox runs over the snow
OUT ?= out/demo.mp4
MINUTES ?= 10
FUZZ_SECONDS ?= 600
PYTHON ?= python3
PORT ?= 8000
# The studio needs a browser for its tests, and most of the crates of the web: `make test-all` builds it.
WORKSPACE = --workspace --exclude soragen-studio

.PHONY: help demo serve studio test test-all bench bench-peers bench-avx2 endurance setup build robustness fuzz lint audit cargo-deny check-cuda gpu-bundle clean

help:
	@echo "make demo        build the plugin, then generate a video with the built-in model: $(OUT)"
	@echo "make serve       serve OpenAI's /v1/videos on port PORT=$(PORT) of this machine; set up in target/serve"
	@echo "make studio      a page in the browser that shows a live source and steers it; port PORT=$(PORT)"
	@echo "make test        lint, build, then run all tests; what CI runs"
	@echo "make test-all    make test, and the slow checks: robustness, endurance, audit, check-cuda"
	@echo "make bench       speed of the engine and the kernels, compared with the peak of this CPU"
	@echo "make bench-peers parts of Wan 1.3B compared with torch; PYTHON needs torch, diffusers and taehv.py"
	@echo "make bench-avx2  the kernels, and a step of Wan 1.3B compared with torch, both with AVX2 only"
	@echo "make endurance   memory after every minute of a video of MINUTES=$(MINUTES); an hour of live frames on a test clock"
	@echo "make build       release build of the plugins and the command, in target/release"
	@echo "make robustness  robustness of the watermark, for eleven clips or the files CLIPS"
	@echo "make fuzz        run each target in fuzz/ for FUZZ_SECONDS=$(FUZZ_SECONDS)"
	@echo "make lint        formatting, clippy, documentation"
	@echo "make audit       known vulnerabilities in dependencies; downloads the RustSec database"
	@echo "make check-cuda  check the plugin for CUDA; needs no GPU"
	@echo "make gpu-bundle  what scripts/gpu-check.sh measures on a GPU, for a machine without Rust: target/gpu-bundle"

demo: setup
	cargo build --release -p gst-plugin-soragen
	pipelines/file.sh "$(PROMPT)" "$(OUT)"

serve: build
	test -x target/serve/bin/python || $(PYTHON) -m venv target/serve
	target/serve/bin/pip install -q "./python[serve]"
	SORAGEN=$(CURDIR)/target/release/soragen target/serve/bin/python -m soragen.serve --port $(PORT) --folder out/jobs

studio: setup
	cargo build --release -p soragen-studio
	target/release/soragen-studio --port $(PORT) "$(PROMPT)"

test: lint
	cargo test $(WORKSPACE)
	scripts/test-python.sh

test-all: test cargo-deny
	cargo deny check
	scripts/test-python.sh all
	scripts/test-studio.sh
	$(MAKE) robustness endurance check-cuda

bench: setup
	cargo bench $(WORKSPACE) --bench engine --bench element
	cargo bench $(WORKSPACE) --features soragen/bench --bench kernels

bench-peers: setup
	cargo bench $(WORKSPACE) --bench wan --no-run
	for part in f32 bf16 int8 vae taehv umt5 umt5-bf16; do \
	  case $$part in *bf16) ;; *) cargo bench $(WORKSPACE) --bench wan -- $$part || exit 1;; esac; \
	  test $$part = int8 || $(PYTHON) benches/wan.py $$part || exit 1; \
	done

# With the instructions of a CPU without AVX-512.
bench-avx2: export SORAGEN_KERNELS = avx2
bench-avx2: export ATEN_CPU_CAPABILITY = avx2
bench-avx2: export ONEDNN_MAX_CPU_ISA = AVX2
bench-avx2: setup
	cargo bench $(WORKSPACE) --features soragen/bench --bench kernels
	cargo bench $(WORKSPACE) --bench wan -- int8
	cargo bench $(WORKSPACE) --bench wan -- quantized
	$(PYTHON) benches/wan.py f32

endurance: setup
	SORAGEN_LIVE_SECONDS=3600 cargo test $(WORKSPACE) --test pipelines live::frames_leave
	cargo test $(WORKSPACE) --test pipelines filter::a_live_video_through -- --ignored --nocapture
	cargo test $(WORKSPACE) --test pipelines control::five_hundred -- --ignored --nocapture
	cargo bench $(WORKSPACE) --bench element -- $(MINUTES)

build: setup
	cargo build --release -p gst-plugin-soragen -p gst-plugin-soraprovenance -p soragen-cli

setup:
	scripts/setup.sh

robustness: build
	scripts/robustness.sh $(CLIPS)

fuzz:
	command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	mkdir -p fuzz/corpus && tar -C fuzz/corpus -xJf fuzz/corpus.tar.xz
	for target in $$(cargo fuzz list); do \
	  mkdir -p fuzz/corpus/$$target && \
	  cargo fuzz run -s none $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=16384 -timeout=20 -rss_limit_mb=4096 || exit 1; \
	done

lint: setup
	cargo fmt --all --check
	cargo clippy $(WORKSPACE) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc $(WORKSPACE) --no-deps

audit: cargo-deny
	cargo deny check advisories

cargo-deny:
	command -v cargo-deny >/dev/null || cargo install --locked cargo-deny

check-cuda: setup
	scripts/check-cuda.sh

gpu-bundle: setup
	scripts/gpu-bundle.sh

clean:
	cargo clean
	rm -rf out
