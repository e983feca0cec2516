# A small proxy in front of any number of servers.
FROM debian:12-slim
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends haproxy=2.6.* curl=7.88.* \
    && rm -rf /var/lib/apt/lists/*
# Whoever cloned this may keep files to themselves.
COPY --chmod=0444 contrib/docker/haproxy.cfg /etc/haproxy/haproxy.cfg
USER 65534:65534
EXPOSE 8080
STOPSIGNAL SIGUSR1
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["curl", "-fsS", "-o", "/dev/null", "http://127.0.0.1:8405/livez"]
CMD ["haproxy", "-W", "-db", "-f", "/etc/haproxy/haproxy.cfg"]
