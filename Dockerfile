# The operator's and the runner's images:
#
#   docker build --target operator -t buildpools/operator .
#   docker build --target runner   -t buildpools/runner .
#
# The final stages only copy, so that a build without a registry can put in other stages and bases by named contexts:
# the test cluster (e2e/src/cluster/images.rs) takes `build` from a directory.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p buildpools-operator -p buildpools-runner \
    && install -D -t /out target/release/buildpools-operator target/release/buildpools-runner

FROM gcr.io/distroless/cc-debian12:nonroot AS runner
COPY --from=build /out/buildpools-runner /usr/bin/
# The user of the BuildKit container beside it, with which it shares a socket.
USER 1000:1000
ENTRYPOINT ["/usr/bin/buildpools-runner"]

FROM gcr.io/distroless/cc-debian12:nonroot AS operator
COPY --from=build /out/buildpools-operator /usr/bin/
USER 65532:65532
ENTRYPOINT ["/usr/bin/buildpools-operator"]
