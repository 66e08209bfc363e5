# The example examples/cart as a static program, for docker-compose.yml. The context is the root of the repository.
ARG GO_IMAGE=golang:1.26-alpine
FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o /out/cart ./examples/cart && mkdir /out/data

FROM scratch
COPY --from=build /out/ /
VOLUME /data
EXPOSE 8080
ENTRYPOINT ["/cart"]
CMD ["--addr", ":8080", "--db", "/data/cart.db"]
