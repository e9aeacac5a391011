# The control plane: docker build -f deploy/docker/groved.Dockerfile .
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o /out/groved ./cmd/groved

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/groved /usr/bin/groved
EXPOSE 8779
ENTRYPOINT ["/usr/bin/groved"]
CMD ["api", "--config", "/etc/grove/grove.yaml"]
