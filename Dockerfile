# The image of every Ray node: head, CPU workers, GPU workers. See docs/cluster.md.
#
#   docker build --tag ntt-ray .                      # the image
#   docker build --target test .                      # its health: runs the example in it
#   docker build --target compiler --tag ntt-ray .    # with a C compiler, for models.compile and kernels
#   docker build --build-arg 'EXTRAS=[gcs]' ...       # gs:// (or [azure], [gcs,azure])
#   docker build --build-arg CUDA=12 ...              # for drivers from 525 on; without it, 580
#
# Plain Python as base: torch's wheels bring the CUDA libraries they were built with, a CUDA base
# image would hold them a second time (and another version). The node gives the driver.
ARG BASE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

# --- what the package needs: a layer of 5 GB that stays the same while only our code changes
FROM ${BASE} AS dependencies
ARG EXTRAS=
ARG CUDA=13
WORKDIR /build
RUN python -m venv /opt/ntt-ray
COPY constraints.txt constraints-cuda12.txt pyproject.toml setup.py README.md LICENSE ./
# torch and its libraries in the version whose wheels are built for CUDA 12, in place of those for 13
RUN case "${CUDA}" in \
        13) ;; \
        12) sed --in-place --regexp-extended '/^(cuda-|nvidia-|torch|triton)/d' constraints.txt \
            && cat constraints-cuda12.txt >> constraints.txt ;; \
        *) echo "CUDA is 12 or 13, not ${CUDA}" >&2; exit 1 ;; \
    esac
# an empty package of the same name stands in for ours; boto3 is what `ray up` needs on a head node
RUN mkdir ntt_ray \
    && echo '__version__ = "0"' > ntt_ray/__init__.py \
    && /opt/ntt-ray/bin/python -m pip install --no-cache-dir --constraint constraints.txt ".${EXTRAS}" boto3 \
    && /opt/ntt-ray/bin/python -m pip uninstall --yes ntt-ray

# --- the package
FROM dependencies AS package
COPY ntt_ray ntt_ray
RUN /opt/ntt-ray/bin/python -m pip install --no-cache-dir --no-deps --prefix /package .

# --- what runs: no pip cache, no sources, no compiler, not root
FROM ${BASE} AS runtime
# wget: KubeRay's probes. openssh-client and rsync: a head node that starts others (`ray up`).
# Debian's mirrors keep no old versions, so none is named.
# hadolint ignore=DL3008,SC2016
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openssh-client rsync wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 --shell /bin/bash ray \
    && echo 'export PATH="/opt/ntt-ray/bin:$PATH"' > /etc/profile.d/ntt-ray.sh
COPY --from=dependencies /opt/ntt-ray /opt/ntt-ray
COPY --from=package /package /opt/ntt-ray
# login shells, which KubeRay uses, take the path from /etc/profile.d; all others from here
ENV PATH="/opt/ntt-ray/bin:${PATH}" \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /home/ray/job
COPY --chown=1000:1000 jobs jobs
CMD ["ntt-ray", "--help"]

# --- the image's health: its own packages agree, and the example runs in it from end to end
FROM runtime AS test
RUN python -m pip check \
    && python jobs/label.py --help \
    && ntt-ray demo --output /tmp/demo

# --- for models.compile and our own kernels, which are built where they run
FROM runtime AS compiler
USER 0
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*
USER 1000:1000

# --- the default
FROM runtime AS image
