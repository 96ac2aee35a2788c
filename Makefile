# `make demo` and `make test` are all that a fresh machine needs; both install what is missing first.

PROMPT ?= a red fox runs over the snow
OUT ?= out/demo.mp4

.PHONY: help demo test setup build lint doc check-cuda clean

help:
	@echo "make demo        build, then make a video with the built-in model: $(OUT)"
	@echo "make test        build, then run all tests"
	@echo "make build       the plugin and the command, optimised, in target/release"
	@echo "make lint        format, clippy, cargo deny, documentation"
	@echo "make check-cuda  compile the plugin for CUDA; needs no GPU"

demo: setup
	cargo build --release -p gst-plugin-soragen -p soragen-cli
	pipelines/file.sh "$(PROMPT)" "$(OUT)"

test: setup
	cargo test --workspace

build: setup
	cargo build --release -p gst-plugin-soragen -p soragen-cli

setup:
	scripts/setup.sh

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
	cargo deny check

check-cuda:
	scripts/check-cuda.sh

clean:
	cargo clean
	rm -rf out
