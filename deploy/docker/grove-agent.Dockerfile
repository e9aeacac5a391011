# The guest agent beside a redis-server, for hosts of databases that are containers: docker build -f deploy/docker/grove-agent.Dockerfile .
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o /out/grove-agent ./cmd/grove-agent

FROM debian:12-slim
RUN apt-get update && apt-get install -y --no-install-recommends redis-server && rm -rf /var/lib/apt/lists/* && \
	useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin grove-db
COPY --from=build /out/grove-agent /usr/bin/grove-agent
ENTRYPOINT ["/usr/bin/grove-agent"]
CMD ["--config", "/etc/grove/bootstrap.json"]
