# The command line: docker build -f deploy/docker/grove.Dockerfile .
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o /out/grove ./cmd/grove

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/grove /usr/bin/grove
ENTRYPOINT ["/usr/bin/grove"]
