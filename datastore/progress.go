package datastore

import "context"

type progressKey struct{}

// WithProgress lets what runs under the context tell how far it is, by [ReportProgress].
func WithProgress(ctx context.Context, report func(message string)) context.Context {
	return context.WithValue(ctx, progressKey{}, report)
}

// ReportProgress tells whoever watches the job that ctx belongs to how far it is, in a phrase for users ("moved 1,204 of
// 4,096 slots"). Where nobody watches it does nothing.
func ReportProgress(ctx context.Context, message string) {
	if report, ok := ctx.Value(progressKey{}).(func(string)); ok {
		report(message)
	}
}
