# The sidecar's image: one static binary and the roots of trust, nothing else: no shell, no package manager. Static, so that no
# base image has to be patched and no library differs from those of the tests; glibc is linked in, and its resolver asks
# /etc/hosts and DNS without loading anything. 12 MB to pull, 29 MB on disk.
#
#   docker build -t streamgauge .
#   docker run --rm -p 8080:8080 -p 9464:9464 streamgauge run --upstream http://host.docker.internal:8000
#
# A static binary that is there already, such as scripts/build-optimized makes, is put in without compiling: a folder that
# has it beside a ca-certificates.crt takes the place of the build stage:  docker build --build-context build=FOLDER .

ARG RUST_IMAGE=docker.io/library/rust:1.95.0-slim-bookworm

FROM ${RUST_IMAGE} AS compile
RUN rustup component add llvm-tools
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY scripts/build-optimized scripts/
COPY src src
# The manifest names a benchmark and tests, which an image does without.
RUN mkdir -p benches tests/it \
    && touch benches/observe.rs tests/it/main.rs \
    && scripts/build-optimized

FROM scratch AS build
COPY --from=compile /src/target/optimized/streamgauge /etc/ssl/certs/ca-certificates.crt /

FROM scratch
LABEL org.opencontainers.image.title="streamgauge" \
      org.opencontainers.image.description="Measures the token stream of LLM inference servers without touching it" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY LICENSE /licenses/streamgauge
COPY --from=build /ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chmod=0555 /streamgauge /streamgauge
# A number, so that Kubernetes' runAsNonRoot can see that it is not root. It writes nothing unless a file is configured
# (request_log, usage_ledger): the root may be read-only.
USER 65532:65532
EXPOSE 8080 9464
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/streamgauge", "health"]
ENTRYPOINT ["/streamgauge"]
CMD ["run", "--config", "/etc/streamgauge/config.yaml"]
