package holdfastv1

import _ "embed"

// OpenAPI describes the services as HTTP with JSON, in OpenAPI 3.1.
//
//go:embed openapi.yaml
var OpenAPI []byte
