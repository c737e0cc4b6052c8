# docker build -t windowkv . && docker run --rm -v $PWD:/data windowkv run -m /data/model.gguf -f /data/book.txt -p "..."
FROM debian:forky AS build
RUN apt-get update && apt-get install -y --no-install-recommends make git ca-certificates
WORKDIR /src
COPY . .
RUN make build && cmake --install build/release --prefix /opt/windowkv --strip

FROM debian:forky
# The command links ggml, libllama, fmt, spdlog, cpp-httplib, ICU, libcurl, nettle and libedit; ggml's CPU kernels come with libggml0, BLAS makes
# prefill faster, --rpc needs the RPC backend, downloads need certificates, and the server reads PDF files by pdftotext.
RUN apt-get update && apt-get install -y --no-install-recommends libllama0 libggml0 libggml0-backend-blas libopenblas0-openmp \
      libggml0-backend-rpc 'libfmt1*' 'libicu7*' libcurl4-gnutls libnettle8t64 libedit2 'libspdlog1*' 'libcpp-httplib0*' ca-certificates poppler-utils \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/windowkv/bin/windowkv /usr/local/bin/windowkv
COPY --from=build /opt/windowkv/share/windowkv /usr/local/share/windowkv
ENTRYPOINT ["windowkv"]
