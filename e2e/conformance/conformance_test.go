package conformance

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/stretchr/testify/require"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/apis/v1alpha2"
	"sigs.k8s.io/gateway-api/apis/v1alpha3"
	"sigs.k8s.io/gateway-api/apis/v1beta1"
	xv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"
	"sigs.k8s.io/gateway-api/conformance"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/config"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

// reportFile is where the report goes, in the repository.
const reportFile = "docs/conformance/gateway-api-v1.6.3.yaml"

// TestGatewayAPI is the whole suite, every feature of five profiles. Its features
// are those in the status of the GatewayClass, as for any user of it.
func TestGatewayAPI(t *testing.T) {
	if os.Getenv(insideEnv) == "" {
		t.Skip("needs a cluster of its own: run make conformance")
	}
	log.SetLogger(logr.FromSlogHandler(slog.NewTextHandler(io.Discard, nil)))
	cfg, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	require.NoError(t, err)
	cfg.QPS, cfg.Burst = 100, 200
	c, err := client.New(cfg, client.Options{})
	require.NoError(t, err)
	for _, add := range []func() error{
		func() error { return gatewayv1.Install(c.Scheme()) },
		func() error { return v1beta1.Install(c.Scheme()) },
		func() error { return v1alpha3.Install(c.Scheme()) },
		func() error { return v1alpha2.Install(c.Scheme()) },
		func() error { return xv1alpha1.Install(c.Scheme()) },
		func() error { return apiextensionsv1.AddToScheme(c.Scheme()) },
	} {
		require.NoError(t, add())
	}
	set, err := clientset.NewForConfig(cfg)
	require.NoError(t, err)

	address := func(value string) gatewayv1.GatewaySpecAddress {
		kind := gatewayv1.IPAddressType
		return gatewayv1.GatewaySpecAddress{Type: &kind, Value: value}
	}
	options := suite.ConformanceOptions{
		ConfigurableOptions: suite.ConfigurableOptions{
			GatewayClassName:     "adit",
			CleanupBaseResources: !*keep,
			CleanupTestResources: true,
			Debug:                *verbose,
			TimeoutConfig:        config.DefaultTimeoutConfig(),
			// Within and outside what the cluster's balancer has to give.
			UsableNetworkAddresses:   []gatewayv1.GatewaySpecAddress{address("172.30.1.200")},
			UnusableNetworkAddresses: []gatewayv1.GatewaySpecAddress{address("203.0.113.7")},
			ConformanceProfiles: []suite.ConformanceProfileName{
				suite.GatewayHTTPConformanceProfileName, suite.GatewayGRPCConformanceProfileName, suite.GatewayTLSConformanceProfileName,
				suite.GatewayTCPConformanceProfileName, suite.GatewayUDPConformanceProfileName,
			},
			Implementation: confv1.Implementation{
				Organization: "adit-mesh", Project: "adit", URL: "https://github.com/adit-mesh/adit",
				Version: os.Getenv(versionEnv), Contact: []string{"https://github.com/adit-mesh/adit/issues"},
			},
		},
		Client: c, Clientset: set, RestConfig: cfg, Hook: tell,
	}
	if *only == "" {
		options.ReportOutputPath = filepath.Join(root, reportFile)
		require.NoError(t, os.MkdirAll(filepath.Dir(options.ReportOutputPath), 0o755))
		// Registered before the suite's own, so it runs after: the suite writes for its owner alone.
		t.Cleanup(func() { _ = os.Chmod(options.ReportOutputPath, 0o644) })
	} else {
		// The suite's own way to run one test forgets the features of the GatewayClass.
		choose(t, strings.Split(*only, ","))
	}
	conformance.RunConformanceWithOptions(t, options)
}

// tell says how a test ended, as soon as it has: testing would only at the end of all.
func tell(t *testing.T, test suite.ConformanceTest, s *suite.ConformanceTestSuite) {
	switch {
	case !s.SupportedFeatures.HasAll(test.Features...): // of a mesh
	case t.Failed():
		fmt.Fprintln(os.Stderr, "FAIL", test.ShortName)
	case t.Skipped():
		fmt.Fprintln(os.Stderr, "skip", test.ShortName)
	default:
		fmt.Fprintln(os.Stderr, "ok  ", test.ShortName)
	}
}

// choose leaves the suite no tests but those of the short names.
func choose(t *testing.T, names []string) {
	var chosen []suite.ConformanceTest
	for _, name := range names {
		i := slices.IndexFunc(tests.ConformanceTests, func(c suite.ConformanceTest) bool { return c.ShortName == name })
		if i < 0 {
			t.Fatalf("the suite has no test %s", name)
		}
		chosen = append(chosen, tests.ConformanceTests[i])
	}
	tests.ConformanceTests = chosen
}
