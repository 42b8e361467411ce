# One image for a class: README's own steps on Ubuntu's Python. How to build and start it: docs/install.md.
ARG DEVICE=cuda

FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04 AS cuda
# No GPU is there while an image is built: this stands for what nvidia-smi says of the driver (install.py). The torch
# that it chooses brings its own CUDA libraries and runs with any driver for CUDA 12, so the base asks for no newer one.
ENV COURSE_CUDA=12.8 NVIDIA_REQUIRE_CUDA="cuda>=12.0"

FROM ubuntu:24.04 AS cpu

FROM ${DEVICE}
# The compiler and python3-dev are for Triton, the fonts for Chinese in figures.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        build-essential fonts-noto-cjk git make python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN install -d -o ubuntu -g ubuntu /course
ENV LANG=C.UTF-8
USER ubuntu
WORKDIR /course
COPY --chown=ubuntu:ubuntu . .
RUN make install && mkdir -p runs
VOLUME ["/course/models", "/course/runs"]
EXPOSE 8888
# All of the container's own addresses: 127.0.0.1 in there could not be published. JupyterLab asks for its token.
CMD ["make", "lab", "IP=0.0.0.0"]
