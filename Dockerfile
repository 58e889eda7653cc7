# babelscope on a processor: docker build -t babelscope . && docker run --rm -v "$PWD/runs:/home/scope/runs" babelscope demo
FROM python:3.12-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
# what is installed first changes least, so that a change of the source does not download torch again
COPY constraints.txt /tmp/constraints.txt
RUN pip install -c /tmp/constraints.txt torch --index-url https://download.pytorch.org/whl/cpu

COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN pip install -c /tmp/constraints.txt "/src[hub,eval,lid,sentencepiece,zstd,adapters]" && rm -rf /src

# nobody is root, and runs are written where the caller mounts a folder
RUN useradd --create-home scope
USER scope
WORKDIR /home/scope
ENTRYPOINT ["babelscope"]
CMD ["--help"]
