package fault

import "errors"

// cured is an error that knows what a person can do about it.
type cured struct {
	err  error
	cure string
}

// Error prints the error, then the cure.
func (c *cured) Error() string { return c.err.Error() + "; " + c.cure }

// Unwrap returns the error without its cure.
func (c *cured) Unwrap() error { return c.err }

// WithCure adds to err what a person can do about it: one sentence without a full stop,
// in the imperative, with the exact command where there is one. Doors that can print
// more than a line show it apart, see [Describe].
func WithCure(err error, cure string) error { return &cured{err: err, cure: cure} }

// fielded is an error about one field of a request.
type fielded struct {
	err   error
	field string
}

// Error prints the error; whoever wrote its text named the field as people call it.
func (f *fielded) Error() string { return f.err.Error() }

// Unwrap returns the error without its field.
func (f *fielded) Unwrap() error { return f.err }

// WithField says, for programs, which field of a request the error is about, such as
// spec.size_bytes.
func WithField(err error, field string) error { return &fielded{err, field} }

// Field returns the field that the error is about, or "".
func Field(err error) string {
	if f := new(fielded); errors.As(err, &f) {
		return f.field
	}
	return ""
}

// Describe splits err for people: what happened, without the names of our verbs, and
// the outermost cure, or "" when there is none. Logs print Error instead, which has all
// of it.
func Describe(err error) (what, cure string) {
	for prefix := ""; ; {
		switch e := err.(type) {
		case *cured:
			if cure == "" {
				cure = e.cure
			}
			err = e.err
		case *fielded:
			err = e.err
		case *Error:
			if !e.Volume.IsZero() {
				prefix += "volume " + e.Volume.String() + ": "
			}
			if e.Err == nil {
				return prefix + e.Kind.String(), cure
			}
			err = e.Err
		default:
			return prefix + err.Error(), cure
		}
	}
}
