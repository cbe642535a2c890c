# syntax=docker/dockerfile:1
# One image with the three programs: weft-proxy, weft-control and weft. The last stage has the C library,
# the programs and nothing else: no shell, no package manager, no root.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The caches hold downloads and objects between builds; what is kept leaves them in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --locked --release -p weft-proxy -p weft-control -p weft \
    && install -D -t /programs target/release/weft-proxy target/release/weft-control target/release/weft \
    # Made here because the last stage has nothing to make directories with.
    && install -d -m 0700 /state

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="Weft" \
      org.opencontainers.image.description="A service mesh: sidecar proxy, control API and command line" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /programs/ /usr/local/bin/
# Keys and last good configuration. Mount a memory-backed volume here for the proxy, a lasting one for the
# control API.
COPY --from=build --chown=65532:65532 /state /run/weft
USER 65532:65532
ENV WEFT_STATE=/run/weft
CMD ["/usr/local/bin/weft-proxy"]
