# This project with all it needs to train, on CPUs and NVIDIA GPUs: PyTorch's wheels bring CUDA with them.
#
#   docker build -t litcnn .        # or deploy/container.sh build, where there is no Docker; see docs/docker.md
#   docker run --rm -v litcnn-runs:/app/runs -v litcnn-data:/app/data litcnn fit --config configs/cnn.yaml

# python:3.12 has the compiler that `compile: true` needs
ARG BASE=python:3.12-slim

FROM ${BASE} AS packages
RUN python3 -m venv /opt/venv
COPY requirements.txt /tmp/
# one layer, which changes with the pinned versions only; pip.conf may be given, for an index of your own
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check -r /tmp/requirements.txt

FROM ${BASE}
# nobody in particular runs it: everything writable is writable for any user id, also one that has no name
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app/src \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=nobody \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
RUN mkdir data runs && chmod 1777 . data runs
COPY --from=packages /opt/venv /opt/venv
COPY LICENSE main.py ./
COPY configs configs
COPY src src
USER 1000:1000
VOLUME ["/app/data", "/app/runs"]
ENTRYPOINT ["python", "/app/main.py"]
CMD ["fit", "--config", "configs/digits.yaml"]
