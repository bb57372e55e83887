package cakube

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/adit-mesh/adit/identity/caserver"
)

// What the API server says of the pod that a token is bound to, among the
// extra fields of its user.
// https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#bound-service-account-tokens
const (
	extraPodName  = "authentication.kubernetes.io/pod-name"
	extraPodUID   = "authentication.kubernetes.io/pod-uid"
	extraNodeName = "authentication.kubernetes.io/node-name"
)

const serviceAccountPrefix = "system:serviceaccount:"

// Authenticate implements [caserver.Authenticator] by TokenReview. It also
// finds the node of a token whose API server does not say it (before 1.30), by
// its pod.
func (b *Backend) Authenticate(ctx context.Context, token string) (caserver.Caller, error) {
	review := new(authenticationv1.TokenReview)
	err := b.auth.create(ctx, "tokenreviews", "", &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{b.cfg.Audience}},
	}, review)
	if err != nil {
		return caserver.Caller{}, fmt.Errorf("ask the API server whose token it is: %w", err)
	}
	caller, err := readReview(&review.Status, b.cfg.Audience)
	if err != nil {
		return caserver.Caller{}, err
	}
	if caller.Node == "" {
		if caller.Node, err = b.nodeOf(ctx, caller); err != nil {
			return caserver.Caller{}, err
		}
	}
	caller.Expires = expiry(token)
	return caller, nil
}

// readReview takes a caller out of what the API server says of its token.
func readReview(status *authenticationv1.TokenReviewStatus, audience string) (caserver.Caller, error) {
	if !status.Authenticated {
		reason := status.Error
		if reason == "" {
			reason = "no reason given; expired, or of another cluster?"
		}
		return caserver.Caller{}, caserver.Refuse(caserver.ReasonToken, "the API server does not accept the token: %.300s", reason)
	}
	// An authenticator that does not know audiences leaves them out, and has
	// compared nothing.
	if !slices.Contains(status.Audiences, audience) {
		return caserver.Caller{}, caserver.Refuse(caserver.ReasonToken, "the token is for audience %q, not %q", status.Audiences, audience)
	}
	account, ok := strings.CutPrefix(status.User.Username, serviceAccountPrefix)
	namespace, name, ok2 := strings.Cut(account, ":")
	if !ok || !ok2 || namespace == "" || name == "" {
		return caserver.Caller{}, caserver.Refuse(caserver.ReasonToken, "the token is of %.100q, which is no service account", status.User.Username)
	}
	one := func(key string) string {
		if v := status.User.Extra[key]; len(v) == 1 {
			return v[0]
		}
		return ""
	}
	return caserver.Caller{
		Namespace: namespace, ServiceAccount: name,
		Pod: one(extraPodName), PodUID: one(extraPodUID), Node: one(extraNodeName),
	}, nil
}

func (b *Backend) nodeOf(ctx context.Context, caller caserver.Caller) (string, error) {
	if caller.Pod == "" || caller.PodUID == "" {
		return "", caserver.Refuse(caserver.ReasonToken, "the token of %s/%s is bound to no pod; a projected token is wanted",
			caller.Namespace, caller.ServiceAccount)
	}
	pod := new(corev1.Pod)
	err := b.core.get(ctx, "pods", caller.Namespace, caller.Pod, pod)
	switch {
	case apierrors.IsNotFound(err), err == nil && string(pod.UID) != caller.PodUID:
		return "", caserver.Refuse(caserver.ReasonToken, "the pod %s/%s that the token is bound to is gone", caller.Namespace, caller.Pod)
	case err != nil:
		return "", fmt.Errorf("ask the API server for the caller's node: %w", err)
	case pod.Spec.NodeName == "":
		return "", caserver.Refuse(caserver.ReasonToken, "the pod %s/%s runs on no node", caller.Namespace, caller.Pod)
	}
	return pod.Spec.NodeName, nil
}

// expiry reads when a token ends out of the token itself, which the API server
// has verified. Zero means that it does not say.
func expiry(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}
	}
	var claims struct {
		Exp int64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Exp <= 0 {
		return time.Time{}
	}
	return time.Unix(claims.Exp, 0)
}
