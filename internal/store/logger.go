package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/logger"
)

// gormConfig is what both databases have in common. Columns are always named in queries, so that a migration that adds
// one does not disturb a process of the release before.
func gormConfig(log *slog.Logger) *gorm.Config {
	return &gorm.Config{
		Logger:                 slogger{log},
		NamingStrategy:         naming{},
		QueryFields:            true,
		SkipDefaultTransaction: true,
		TranslateError:         false,
	}
}

// slogger passes gorm's failures on to slog, as statements without their values: those may be secrets.
type slogger struct{ log *slog.Logger }

// LogMode implements logger.Interface; there is one mode.
func (l slogger) LogMode(logger.LogLevel) logger.Interface { return l }

// Info implements logger.Interface.
func (l slogger) Info(ctx context.Context, message string, args ...any) {
	l.log.DebugContext(ctx, "gorm", "message", fmt.Sprintf(message, args...))
}

// Warn implements logger.Interface.
func (l slogger) Warn(ctx context.Context, message string, args ...any) {
	l.log.WarnContext(ctx, "gorm", "message", fmt.Sprintf(message, args...))
}

// Error implements logger.Interface.
func (l slogger) Error(ctx context.Context, message string, args ...any) {
	l.log.ErrorContext(ctx, "gorm", "message", fmt.Sprintf(message, args...))
}

// Trace implements logger.Interface: it is called after each statement.
func (l slogger) Trace(ctx context.Context, begin time.Time, statement func() (string, int64), err error) {
	cancelled := errors.Is(err, context.Canceled) || errors.Is(ctx.Err(), context.Canceled) // SQLite calls it "interrupted"
	if err == nil || cancelled || errors.Is(err, gorm.ErrRecordNotFound) {
		return
	}
	sql, _ := statement()
	l.log.ErrorContext(ctx, "statement failed", "statement", sql, "error", err)
}

// ParamsFilter implements logger.ParamsFilter: values never reach the log.
func (l slogger) ParamsFilter(_ context.Context, sql string, _ ...any) (string, []any) {
	return sql, nil
}
