# Shared by the scripts here: says what is done and how long it took.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

CACHE=${BUILDPOOLS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/buildpools}
export BUILDPOOLS_CACHE=$CACHE
# Of this checkout alone: cargo tells the workspaces of two checkouts apart by nothing but file times, and in a common
# directory it takes what was compiled from one for the other's.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
export CLUSTER=${CLUSTER:-buildpools}
export PATH=$CACHE/tools/bin:$PATH
BIN=$CARGO_TARGET_DIR/debug

command -v cargo >/dev/null || {
  echo "Rust is missing: install it from https://rustup.rs and put cargo on the PATH" >&2
  exit 1
}

# step TITLE COMMAND…: runs the command; when it fails, says which step it was and what to do.
step() {
  local title=$1 began=$SECONDS code
  shift
  printf '\n\033[1m==> %s\033[0m\n' "$title"
  # Not in an `if`: there the shell would go on after the first command of a function that fails.
  set +e
  (
    set -e
    "$@"
  )
  code=$?
  set -e
  if [ "$code" = 0 ]; then
    printf '    %s: %d s\n' "$title" $((SECONDS - began))
  else
    printf '\n\033[1mfailed: %s\033[0m (after %d s, exit code %d)\n' "$title" $((SECONDS - began)) "$code" >&2
    printf 'The command was: %s\n%s\n' "$*" "${HINT:-The output above says why; run the command again when that is mended: every step is repeatable.}" >&2
    exit "$code"
  fi
}

# Compiles every program of the workspace. Always the whole workspace, here and in the tests: a part of it would have
# other features in the dependencies, which cargo would then compile once more.
compile() {
  cargo build --locked -q --workspace --bins
}

# The end-to-end tests, as options for `cargo test --workspace`.
e2e_tests() {
  local path
  for path in e2e/tests/*.rs; do
    printf -- '--test %s ' "$(basename "$path" .rs)"
  done
}

kubeconfig() {
  KUBECONFIG=$("$BIN/cluster" kubeconfig)
  export KUBECONFIG
}
