// Starts Swagger UI on the document that lies beside the page, wherever the application is mounted.
SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: new URL("openapi.json", document.baseURI).href,
  queryConfigEnabled: false,
  validatorUrl: null,
  deepLinking: true,
  displayOperationId: true,
});
