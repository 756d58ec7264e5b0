#!/usr/bin/env bash
# Builds the image of the Dockerfile and runs it: with Docker, or where no Docker answers, with buildah on a base that
# debootstrap makes, which need neither an engine nor a registry of images, but Debian or a relative of it, and root.
#
#   deploy/container.sh build [OPTION...]    # options of `docker build` or `buildah build`, such as --secret
#   deploy/container.sh run [ARGUMENT...]    # main.py with these, and data/ and runs/ of this folder; else digits.yaml
#   deploy/container.sh check                # trains and tests in it, as users without a name, and without network
#   deploy/container.sh clean                # removes what `build` made
set -euo pipefail
cd "$(dirname "$0")/.."
image=litcnn
base=localhost/litcnn-base  # Debian 12 with its Python 3.11, in place of python:3.12-slim
docker info >/dev/null 2>&1 && engine=docker || engine=buildah

build() {
  if [ "$engine" = docker ]; then
    docker build --tag $image "$@" .
    return
  fi
  if ! command -v buildah >/dev/null || ! command -v debootstrap >/dev/null; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends buildah debootstrap debian-archive-keyring
  fi
  buildah inspect --type image $base >/dev/null 2>&1 || make_base
  buildah build --isolation chroot --network host --build-arg BASE=$base --tag $image "$@" .
}

make_base() {
  local container root
  container=$(buildah from scratch)
  root=$(buildah mount "$container")
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root"
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  buildah umount "$container"
  buildah commit --rm "$container" $base
}

# start NETWORK [OPTION...] -- [ARGUMENT...]: main.py with the arguments, in a container that goes when it ends
start() {
  local network=$1 options=() container status=0
  shift
  while [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  shift
  if [ "$engine" = docker ]; then
    docker run --rm --network "$network" "${options[@]}" $image "$@"
    return
  fi
  container=$(buildah from $image)
  # or buildah 1.28 mounts, by chance, its own volumes over the folders that are given for them
  buildah config --volume /app/data- --volume /app/runs- "$container"
  [ $# != 0 ] || set -- fit --config configs/digits.yaml  # buildah has no default command
  set -- buildah run --isolation chroot "${options[@]}" "$container" -- python /app/main.py "$@"
  [ "$network" != none ] || set -- unshare --net -- "$@"  # a chroot has no network of its own
  "$@" || status=$?
  buildah rm "$container" >/dev/null
  return $status
}

run() {
  local options=(--user "$(id -u):$(id -g)" --volume "$PWD/data:/app/data" --volume "$PWD/runs:/app/runs")
  if [ "$engine" = docker ]; then options+=(--env WANDB_API_KEY); fi
  if command -v nvidia-smi >/dev/null; then options+=(--gpus all --ipc host); fi
  mkdir -p data runs  # or Docker makes them, as root's
  start bridge "${options[@]}" -- "$@"
}

check() {
  local home checkpoint said
  home=$(mktemp -d)
  mkdir -m 777 "$home/runs"
  # the image's own user, and one that nobody knows
  start none --volume "$home/runs:/app/runs" -- fit --config configs/digits.yaml --trainer.max_epochs 1
  checkpoint=$(cd "$home" && echo runs/digits/*/checkpoints/best.ckpt)
  chmod -R a+rwX "$home/runs"
  start none --volume "$home/runs:/app/runs" --user 54321:54321 -- test --ckpt_path "$checkpoint"
  [ -s "$home/${checkpoint%/checkpoints/*}/report/index.html" ]
  # where nothing can be written it says so, and trains nothing
  if said=$(start none --volume "$home/runs:/app/runs:ro" -- fit --config configs/digits.yaml 2>&1); then
    echo "error: it trained into a folder that cannot be written" >&2
    return 1
  fi
  grep "error: .*Read-only file system: '/app/runs" <<<"$said"
  rm -rf "$home"
  echo "the image works"
}

clean() {
  if [ "$engine" = docker ]; then
    docker image rm $image
    return
  fi
  buildah rmi --force $image $base
}

case "${1:-}" in
  build | run | check | clean) "$@" ;;
  *)
    sed -n '5,8s/^# *//p' "$0" >&2
    exit 2
    ;;
esac
