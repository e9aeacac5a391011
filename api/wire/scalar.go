package wire

import (
	"encoding/json"
	"reflect"
)

// typeError is what encoding/json reports for a value of the wrong type; it adds the field's path itself.
func typeError(b []byte, target any) error {
	value := "value"
	switch b[0] {
	case '{':
		value = "object"
	case '[':
		value = "array"
	case '"':
		value = "string"
	case 't', 'f':
		value = "bool"
	}
	return &json.UnmarshalTypeError{Value: value, Type: reflect.TypeOf(target)}
}
